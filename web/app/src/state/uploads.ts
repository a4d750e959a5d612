import Uppy, { type UppyFile } from "@uppy/core";
import GoldenRetriever from "@uppy/golden-retriever";
import Upwell, { type UpwellBody } from "@upwell/uppy";
import { client } from "../api.ts";
import { count } from "../format.ts";
import { loadBundles } from "./bundles.ts";
import { changed } from "./files.ts";
import { handOver, keeperOf } from "./keeping.ts";
import { objection, options } from "./options.ts";
import { noteFailure, session } from "./session.ts";
import { announce, tell } from "./toasts.ts";
import { forgetTokens, keepToken, takeToken } from "./tokens.ts";
import { forget, forgotten, loadTasks } from "./waiting.ts";

export type Meta = Record<string, unknown>;
export type Body = UpwellBody;
export type File = UppyFile<Meta, Body>;

const DAY_MILLISECONDS = 24 * 3600 * 1000;
const MIB = 1 << 20;
const LOCK = "upwell:remember";
const LOCK_MILLISECONDS = 3000;

export const uppy = new Uppy<Meta, Body>({
  id: "upwell",
  autoProceed: true,
  onBeforeFileAdded: admit,
  locale: {
    pluralize: (n: number) => (n === 1 ? 0 : 1),
    strings: {
      noDuplicates: "“%{fileName}” is being uploaded already.",
      // The page says it already.
      noInternetConnection: "",
      connectedToInternet: "",
    },
  },
});

/** Of encrypted files, by their ids: kept here alone, so that they end with the page. */
const passwords = new Map<string, string>();

uppy.use(Upwell<Meta, Body>, {
  client,
  password: passwordOf,
  patience: 7 * DAY_MILLISECONDS, // who has the page open waits for a server that is away
});

/** Whether an upload can go on: what is to be encrypted needs its password. */
export function isLocked(file: File): boolean {
  return file.meta["encrypted"] === true && !passwords.has(file.id);
}

/** Throws, rather than send something in clear that was to be encrypted. */
function passwordOf(file: File): string | undefined {
  if (file.meta["encrypted"] !== true) return undefined;
  const password = passwords.get(file.id);
  if (!password) throw new Error("Give its password again to go on.");
  return password;
}

/**
 * Keep what is chosen for the next visit, in one tab: others would send the same files again. Small
 * files are copied, which outlives the browser; all are held by a service worker, which outlives
 * the page; what neither has is chosen again.
 */
async function remember(): Promise<void> {
  const serviceWorker = await keeperOf(uppy.getID());
  if (uppy.getFiles().length) return; // the former visit's would take their place
  uppy.on("restored", takeUp);
  uppy.use(GoldenRetriever, {
    expires: 7 * DAY_MILLISECONDS, // the time a task lives without being used
    indexedDB: { maxFileSize: 64 * MIB, maxTotalSize: 2048 * MIB } as object,
    serviceWorker,
  });
  if (serviceWorker) handOver(uppy.getID(), () => uppy.getFiles());
}

/** Settled when files can be added: those that come sooner are not remembered. */
export const ready: Promise<void> = navigator.locks ? rememberInOneTab() : remember();

function rememberInOneTab(): Promise<void> {
  return new Promise((resolve) => {
    const hold = async () => {
      await remember();
      resolve();
      return new Promise(() => {}); // until the page is gone
    };
    navigator.locks.request(LOCK, { ifAvailable: true }, (lock) => {
      if (lock) return hold();
      resolve();
      // After a reload the former page may hold it a moment longer.
      const signal = AbortSignal.timeout(LOCK_MILLISECONDS);
      navigator.locks.request(LOCK, { signal }, hold).catch(() => {}); // another tab has it
    });
  });
}

/** Whether a chosen file is taken, and what is to become of it. */
function admit(file: File, files: Record<string, File>): File | boolean {
  const why = objection(options.value);
  if (why) {
    tell(why, { kind: "error" });
    return false;
  }
  const same = files[file.id];
  if (same && !same.progress.uploadComplete && !same.error) return false;
  forget({ name: file.name, size: file.size ?? 0 });
  if (options.value.encrypt) passwords.set(file.id, options.value.password);
  const token = takeToken(file);
  return { ...file, ...(token && { upwell: { token } }), meta: { ...file.meta, ...asked() } };
}

function asked(): Meta {
  const { bundleId, life, encrypt } = options.value;
  return {
    account: session.value.account?.id,
    bundleId: bundleId ?? undefined,
    expiresIn: life ?? undefined,
    encrypted: encrypt,
  };
}

/** Go on with what a former visit left: send what is here, remember what has to be chosen again. */
function takeUp(): void {
  const mine = session.value.account?.id;
  const files = uppy.getFiles().filter((file) => file.meta["account"] === mine);
  // The server knows of those that it has something of.
  const unknown = files
    .filter((file) => file.isGhost && !file.progress.bytesUploaded)
    .map((file) => ({ name: file.name, size: file.size ?? 0 }));
  forgotten.set([...forgotten.value, ...unknown]);
  for (const file of files) {
    if (file.isGhost && !file.isRemote && file.upwell) keepToken(file, file.upwell.token);
  }
  const kept = files.filter((file) => !file.isGhost && !file.progress.uploadComplete);
  // Not by removing them: that would cancel their uploads.
  uppy.setState({
    files: Object.fromEntries(kept.map((file) => [file.id, fresh(file)])),
    currentUploads: {},
    recoveredState: null,
  });
  if (!kept.length) return;
  announce(`${count(kept.length, "upload")} continued.`);
  void uppy.upload();
}

function fresh(file: File): File {
  const progress = {
    percentage: 0,
    bytesUploaded: false as const,
    bytesTotal: file.size,
    uploadComplete: false,
    uploadStarted: null,
  };
  return { ...file, progress, isPaused: false, error: null };
}

// what becomes of them

uppy.on("upload-success", (file) => {
  if (file) passwords.delete(file.id);
  changed();
});
uppy.on("upload-error", (file, error) => {
  noteFailure(error);
  announce(`${file?.name} failed: ${error.message}`);
});

let { status } = session.value;
session.subscribe(() => {
  const before = status;
  status = session.value.status;
  if (before === "lost" && status === "in") void uppy.retryAll();
  if (status === "out") letGo();
});

/** Who logs out leaves nothing behind here; what the server has of it waits for them. */
function letGo(): void {
  uppy.pauseAll();
  // Not by removing them: that would cancel their uploads.
  uppy.setState({ files: {}, currentUploads: {} });
  passwords.clear();
  forgotten.set([]);
  forgetTokens();
}

uppy.on("complete", ({ successful = [], failed = [] }) => {
  const parts = [
    successful.length ? `${count(successful.length, "file")} uploaded.` : "",
    failed.length ? `${count(failed.length, "file")} failed.` : "",
  ];
  announce(parts.filter(Boolean).join(" "));
  void loadTasks();
  void loadBundles();
});
uppy.on("info-visible", () => {
  const [info] = uppy.getState().info.slice(-1);
  // Those with details are about a file that failed, which says so itself.
  if (info?.message && !info.details)
    tell(info.message, { kind: info.type === "error" ? "error" : "info" });
});

export function pauseResume(id: string): void {
  uppy.pauseResume(id);
}

/** Try again, for a locked one with its password. */
export function retry(id: string, password?: string): void {
  if (password) passwords.set(id, password);
  void uppy.retryUpload(id);
}

export function cancel(id: string): void {
  uppy.removeFile(id);
}

/** Take what ended well off the list. */
export function clearDone(): void {
  const done = uppy.getFiles().filter((file) => file.progress.uploadComplete);
  uppy.removeFiles(done.map((file) => file.id));
}
