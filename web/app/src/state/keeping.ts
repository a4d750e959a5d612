import type { File } from "./uploads.ts";

const SCRIPT = `${import.meta.env.BASE_URL}keeper.js`;
const ANSWER_MILLISECONDS = 2000;

/** Of Golden Retriever's service worker. */
interface Message {
  type: "uppy/GET_FILES" | "uppy/ADD_FILE" | "uppy/ALL_FILES";
  store: string;
  file?: { id: string; data: unknown };
}

/**
 * Start the service worker that holds on to files while the page reloads. Resolves to whether there
 * is one that answers: browsers have none for pages that came unencrypted, and some when private.
 */
export async function keeperOf(store: string): Promise<boolean> {
  const { serviceWorker } = navigator;
  if (!serviceWorker) return false;
  const late = new Promise<false>((resolve) => {
    setTimeout(() => resolve(false), ANSWER_MILLISECONDS);
  });
  // Without one, what is too large to be copied is chosen again after a reload.
  return Promise.race([late, engage(serviceWorker, store).catch(() => false)]);
}

async function engage(container: ServiceWorkerContainer, store: string): Promise<boolean> {
  await container.register(SCRIPT, { scope: "/" });
  const { active } = await container.ready;
  if (!container.controller) {
    const taken = next(container, "controllerchange");
    active?.postMessage(ask(store));
    await taken;
  }
  const answer = next(container, "message");
  container.startMessages();
  container.controller?.postMessage(ask(store));
  await answer;
  return true;
}

function ask(store: string): Message {
  return { type: "uppy/GET_FILES", store };
}

function next(target: EventTarget, type: string): Promise<unknown> {
  return new Promise((resolve) => target.addEventListener(type, resolve, { once: true }));
}

/**
 * Give the worker all unfinished files once more as the page goes: a browser ends a worker that has
 * had nothing to do for half a minute, and what it held is gone then.
 */
export function handOver(store: string, files: () => readonly File[]): void {
  const give = () => {
    for (const { id, data, progress } of files()) {
      if (!data || progress.uploadComplete) continue;
      const message: Message = { type: "uppy/ADD_FILE", store, file: { id, data } };
      navigator.serviceWorker.controller?.postMessage(message);
    }
  };
  addEventListener("pagehide", give);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") give();
  });
}
