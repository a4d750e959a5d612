import Uppy, { type UppyFile } from "@uppy/core";
import GoldenRetriever from "@uppy/golden-retriever";
import Upwell, { type UpwellBody } from "@upwell/uppy";
import { client } from "../api.ts";
import { count } from "../format.ts";
import { Store } from "../store.ts";
import { loadBundles } from "./bundles.ts";
import { changed, listing } from "./files.ts";
import { objection, options } from "./options.ts";
import { Rate } from "./rates.ts";
import { announce, tell } from "./toasts.ts";
import { forget, forgotten, loadTasks } from "./waiting.ts";

export type Meta = Record<string, unknown>;
export type Body = UpwellBody;
export type File = UppyFile<Meta, Body>;

export type Phase = "waiting" | "hashing" | "sending" | "verifying" | "paused" | "failed" | "done";

/** A file on its way, as it is shown. */
export interface Transfer {
  id: string;
  name: string;
  /** The folder that it was dropped with. */
  folder: string;
  size: number;
  preview: string | null;
  phase: Phase;
  /** 0 to 1. */
  share: number;
  /** Bytes per second. */
  rate: number;
  /** Seconds; `null` when nobody knows. */
  left: number | null;
  error: string | null;
  /** The server held the content already. */
  existing: boolean;
  encrypted: boolean;
  /** It was chosen in a former visit: its password has to be given again. */
  locked: boolean;
  /** Why it does not go on at the moment, though it will. */
  waiting: string | null;
}

export interface Total {
  files: number;
  done: number;
  failed: number;
  paused: number;
  active: number;
  bytes: number;
  size: number;
  rate: number;
  left: number | null;
}

export const transfers = new Store<readonly Transfer[]>([]);

const DAY_MILLISECONDS = 24 * 3600 * 1000;
const MIB = 1 << 20;
const LOOK_MILLISECONDS = 250;

export const uppy = new Uppy<Meta, Body>({
  id: "upwell",
  autoProceed: true,
  onBeforeFileAdded: admit,
  locale: {
    pluralize: (n: number) => (n === 1 ? 0 : 1),
    strings: {
      noDuplicates: "“%{fileName}” is being uploaded already.",
      noInternetConnection: "You are offline. Uploads go on by themselves when you are back.",
      connectedToInternet: "Back online.",
    },
  },
});

/** Of encrypted files, by their ids: kept here alone, so that they end with the page. */
const passwords = new Map<string, string>();

uppy.use(Upwell<Meta, Body>, { client, password: passwordOf });

/** Throws, rather than send something in clear that was to be encrypted. */
function passwordOf(file: File): string | undefined {
  if (file.meta["encrypted"] !== true) return undefined;
  const password = passwords.get(file.id);
  if (!password) throw new Error("Give its password again to go on.");
  return password;
}

// The time a task lives without being used; files that are larger are chosen again.
uppy.on("restored", takeUp);
uppy.use(GoldenRetriever, {
  expires: 7 * DAY_MILLISECONDS,
  indexedDB: { maxFileSize: 64 * MIB, maxTotalSize: 2048 * MIB } as object,
});

/** Whether a chosen file is taken, and what is to become of it. */
function admit(file: File, files: Record<string, File>): File | boolean {
  const why = objection(options.value);
  if (why) {
    tell(why, { kind: "error" });
    return false;
  }
  const same = files[file.id];
  if (same && !same.progress.uploadComplete && !same.error) {
    tell(`“${file.name}” is being uploaded already.`);
    return false;
  }
  forget({ name: file.name, size: file.size ?? 0 });
  if (options.value.encrypt) passwords.set(file.id, options.value.password);
  return { ...file, meta: { ...file.meta, ...asked() } };
}

function asked(): Meta {
  const { bundleId, life, encrypt } = options.value;
  return {
    bundleId: bundleId ?? undefined,
    expiresAt: life === null ? undefined : new Date(Date.now() + life * 1000).toISOString(),
    encrypted: encrypt,
  };
}

/** Go on with what a former visit left: send what is here, remember what has to be chosen again. */
function takeUp(): void {
  const files = uppy.getFiles();
  const ghosts = files.filter((file) => file.isGhost);
  const unknown = ghosts.map((file) => ({ name: file.name, size: file.size ?? 0 }));
  forgotten.set([...forgotten.value, ...unknown]);
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

// what is shown

const rates = new Map<string, Rate>();
const whole = new Rate();

function phaseOf(file: File): Phase {
  if (file.error) return "failed";
  if (file.progress.uploadComplete) return "done";
  if (file.isPaused) return "paused";
  if (file.progress.preprocess) return "hashing";
  const sent = file.progress.bytesUploaded || 0;
  if (!sent) return "waiting";
  return sent === file.size ? "verifying" : "sending";
}

function folderOf(file: File): string {
  const path = file.meta["relativePath"];
  if (typeof path !== "string") return "";
  return path.split("/").slice(0, -1).filter(Boolean).join(" / ");
}

function transferOf(file: File): Transfer {
  const size = file.size ?? 0;
  const phase = phaseOf(file);
  const share = shareOf(file, phase);
  const bytes = share * size;
  const rate = phase === "sending" ? (rates.get(file.id)?.value ?? 0) : 0;
  return {
    id: file.id,
    name: file.name,
    folder: folderOf(file),
    size,
    preview: file.preview ?? null,
    phase,
    share,
    rate,
    left: rate > 0 ? (size - bytes) / rate : null,
    error: file.error ?? null,
    existing: wasThere(file),
    encrypted: file.meta["encrypted"] === true,
    locked: phase === "failed" && file.meta["encrypted"] === true && !passwords.has(file.id),
    waiting: phase === "sending" || phase === "waiting" ? (stalled.get(file.id) ?? null) : null,
  };
}

function shareOf(file: File, phase: Phase): number {
  if (phase === "done") return 1;
  if (phase === "hashing") return file.progress.preprocess?.value ?? 0;
  return file.size ? Number(file.progress.bytesUploaded || 0) / file.size : 0;
}

/** Small files are sent without asking first; whether theirs was there, the list can tell. */
function wasThere(file: File): boolean {
  const body = file.response?.body;
  if (!body) return false;
  return body.existing || (listedBefore.get(file.id)?.has(body.file.id) ?? false);
}

/** All transfers together. */
export function totalOf(all: readonly Transfer[]): Total {
  const counted = all.filter((each) => each.phase !== "failed");
  const size = counted.reduce((sum, each) => sum + each.size, 0);
  const bytes = counted.reduce((sum, each) => sum + sentOf(each), 0);
  const number = (phase: Phase) => all.filter((each) => each.phase === phase).length;
  const [done, failed, paused] = [number("done"), number("failed"), number("paused")];
  const rate = whole.value;
  return {
    files: all.length,
    done,
    failed,
    paused,
    active: all.length - done - failed - paused,
    bytes,
    size,
    rate,
    left: rate > 0 && size > bytes ? (size - bytes) / rate : null,
  };
}

function sentOf({ phase, share, size }: Transfer): number {
  return phase === "hashing" ? 0 : share * size;
}

function measure(): void {
  let sum = 0;
  for (const file of uppy.getFiles()) {
    const sent = Number(file.progress.bytesUploaded || 0);
    sum += sent;
    if (phaseOf(file) === "sending") {
      const rate = rates.get(file.id) ?? new Rate();
      rate.note(sent);
      rates.set(file.id, rate);
    }
  }
  whole.note(sum);
}

let due: ReturnType<typeof setTimeout> | undefined;

/** Uppy tells of every step; people see four a second. */
function look(): void {
  if (due !== undefined) return;
  due = setTimeout(() => {
    due = undefined;
    measure();
    transfers.set(uppy.getFiles().map(transferOf));
  }, LOOK_MILLISECONDS);
}

uppy.on("state-update", look);
setInterval(() => transfers.value.some((each) => each.phase === "sending") && look(), 1000);

// what becomes of them

/** The files that were listed when an upload was added. */
const listedBefore = new Map<string, ReadonlySet<string>>();

uppy.on("files-added", (files) => {
  const listed = new Set(listing.value.items.map((file) => file.id));
  for (const file of files) listedBefore.set(file.id, listed);
});

/** Why files wait that will go on. */
const stalled = new Map<string, string>();

uppy.on("upload-stalled", ({ message }, files) => {
  for (const file of files) stalled.set(file.id, `${message} Trying again…`);
  look();
});
uppy.on("upload-progress", (file) => file && stalled.delete(file.id));
uppy.on("upload-success", (file) => {
  if (file) {
    rates.delete(file.id);
    passwords.delete(file.id);
  }
  changed();
});
uppy.on("upload-error", (file, error) => announce(`${file?.name} failed: ${error.message}`));
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
  if (info) tell(info.message, { kind: info.type === "error" ? "error" : "info" });
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
  rates.delete(id);
}

/** Take what ended well off the list. */
export function clearDone(): void {
  const done = uppy.getFiles().filter((file) => file.progress.uploadComplete);
  uppy.removeFiles(done.map((file) => file.id));
}
