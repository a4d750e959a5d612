import { loadBundles } from "./bundles.ts";
import { changed } from "./files.ts";
import { openSession, reachable } from "./session.ts";
import { loadTasks } from "./waiting.ts";

const TYPES = [
  "file.created",
  "file.updated",
  "file.recycled",
  "file.restored",
  "file.deleted",
  "file.expired",
];
const UPLOADS = ["upload.created", "upload.cancelled", "upload.expired"];
const CALM_MILLISECONDS = 1500;
const RETRY_MILLISECONDS = 10_000;
const SILENCE_MILLISECONDS = 5000; // a stream that ends is opened again in less

let source: EventSource | null = null;
let gone: ReturnType<typeof setTimeout> | undefined;
let due: ReturnType<typeof setTimeout> | undefined;

function tasksChanged(): void {
  if (due !== undefined) return;
  due = setTimeout(() => {
    due = undefined;
    void loadTasks();
  }, CALM_MILLISECONDS);
}

/** Follow what happens on the server while the page is looked at. */
export function follow(): void {
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") stop();
    else start();
  });
  addEventListener("pagehide", stop);
  if (document.visibilityState !== "hidden") listen();
}

/** A page in the background holds no connection; it looks again when it comes back. */
function start(): void {
  listen();
  changed();
  tasksChanged();
  void loadBundles();
}

function listen(): void {
  if (source) return;
  const opened = new EventSource("/api/events");
  source = opened;
  for (const type of TYPES) opened.addEventListener(type, changed);
  for (const type of [...UPLOADS, "file.created"]) opened.addEventListener(type, tasksChanged);
  opened.addEventListener("open", back);
  opened.addEventListener("error", () => {
    gone ??= setTimeout(() => reachable.set(false), SILENCE_MILLISECONDS);
    // Breaks are mended by the browser; refusals are not.
    if (opened.readyState === EventSource.CLOSED && source === opened) again(opened);
  });
}

/** After a break nobody knows what happened meanwhile. */
function back(): void {
  clearTimeout(gone);
  if (gone === undefined) return;
  gone = undefined;
  void openSession();
  changed();
  tasksChanged();
}

function again(refused: EventSource): void {
  setTimeout(() => {
    if (source !== refused) return;
    source = null;
    start();
  }, RETRY_MILLISECONDS);
}

function stop(): void {
  source?.close();
  source = null;
  clearTimeout(gone);
  gone = undefined;
}
