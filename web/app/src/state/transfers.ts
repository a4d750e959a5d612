import { Store } from "../store.ts";
import { listing } from "./files.ts";
import { Rate } from "./rates.ts";
import { reason } from "./refusals.ts";
import { type File, isLocked, uppy } from "./uploads.ts";

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
  /** Done without sending anything. */
  existing: number;
  bytes: number;
  size: number;
  rate: number;
  left: number | null;
}

export const transfers = new Store<readonly Transfer[]>([]);

const LOOK_MILLISECONDS = 250;

const rates = new Map<string, Rate>();
const whole = new Rate();

function phaseOf(file: File): Phase {
  if (file.error) return "failed";
  if (file.progress.uploadComplete) return "done";
  if (file.isPaused) return "paused";
  const { preprocess } = file.progress;
  if (preprocess && preprocess.value !== 1) return "hashing";
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
    error: errorOf(file),
    existing: wasThere(file),
    encrypted: file.meta["encrypted"] === true,
    locked: phase === "failed" && isLocked(file),
    waiting: phase === "sending" || phase === "waiting" ? (stalled.get(file.id) ?? null) : null,
  };
}

function errorOf({ error, response }: File): string | null {
  const body = response?.body as { code?: unknown; meta?: unknown } | undefined;
  return error ? reason(body?.code, body?.meta, error) : null;
}

function shareOf(file: File, phase: Phase): number {
  if (phase === "done") return 1;
  if (phase === "hashing") return file.progress.preprocess?.value ?? 0;
  return file.size ? Number(file.progress.bytesUploaded || 0) / file.size : 0;
}

/** Small files are sent without asking first; whether theirs was there, the list can tell. */
function wasThere(file: File): boolean {
  const body = file.response?.body;
  if (!body || !file.progress.uploadComplete) return false;
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
    existing: all.filter((each) => each.existing).length,
    bytes,
    size,
    rate,
    left: rate > 0 && size > bytes ? (size - bytes) / rate : null,
  };
}

/** In the tab, for who looks at another one. */
function titleOf({ active, bytes, size }: Total): string {
  return active && size ? `${Math.floor((bytes / size) * 100)} % · Upwell` : "Upwell";
}

function sentOf({ phase, share, size }: Transfer): number {
  return phase === "hashing" ? 0 : share * size;
}

function measure(): void {
  let sum = 0;
  let sending = false;
  for (const file of uppy.getFiles()) {
    const sent = Number(file.progress.bytesUploaded || 0);
    sum += sent;
    if (phaseOf(file) === "sending") {
      const rate = rates.get(file.id) ?? new Rate();
      rate.note(sent);
      rates.set(file.id, rate);
      sending = true;
    } else {
      rates.delete(file.id); // a rest does not count when it goes on
    }
  }
  if (sending) whole.note(sum);
  else whole.forget();
}

let due: ReturnType<typeof setTimeout> | undefined;

/** Uppy tells of every step; people see four a second. */
function look(): void {
  if (due !== undefined) return;
  due = setTimeout(() => {
    due = undefined;
    measure();
    transfers.set(uppy.getFiles().map(transferOf));
    document.title = titleOf(totalOf(transfers.value));
  }, LOOK_MILLISECONDS);
}

uppy.on("state-update", look);
setInterval(() => transfers.value.some((each) => each.phase === "sending") && look(), 1000);

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
  if (file) rates.delete(file.id);
});
