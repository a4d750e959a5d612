/** Hashes files away from the page's thread, which never sees their bytes. */

import { createSHA256 } from "hash-wasm";

import { FileUnreadable } from "./errors.ts";
import { hashSlices } from "./slices.ts";

/** What the page asks: hash `blob` under the number `id`, or stop doing so. */
export type HashRequest = { id: number; blob: Blob } | { id: number; stop: true };

/** What the worker says about the job `id`. */
export type HashReport =
  | { id: number; hashed: number }
  | { id: number; digest: string }
  | { id: number; failure: { name: string; message: string } };

const running = new Map<number, AbortController>();

self.onmessage = ({ data }: MessageEvent<HashRequest>) => {
  if ("blob" in data) void run(data.id, data.blob);
  else running.get(data.id)?.abort();
};

async function run(id: number, blob: Blob): Promise<void> {
  const stop = new AbortController();
  running.set(id, stop);
  try {
    const hashing = {
      signal: stop.signal,
      onHashed: (hashed: number) => report({ id, hashed }),
    };
    report({ id, digest: await hashSlices(blob, await createSHA256(), hashing) });
  } catch (error) {
    if (!stop.signal.aborted) report({ id, failure: failureOf(error) });
  } finally {
    running.delete(id);
  }
}

function failureOf(error: unknown): { name: string; message: string } {
  if (error instanceof FileUnreadable) return { name: error.name, message: error.message };
  return { name: "", message: String(error) };
}

function report(message: HashReport): void {
  self.postMessage(message);
}
