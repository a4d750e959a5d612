/** Reading a file piece by piece. */

import { FileChanged, FileUnreadable } from "./errors.ts";
import type { Hashing } from "./platform/platform.ts";

/** Bytes that are held in memory while a file is hashed. */
export const SLICE = 4 << 20;

/** A digest that is being computed. */
export interface Digest {
  update(data: Uint8Array): unknown;
  digest(encoding: "hex"): string;
}

/** The digest of `blob` in hex, on memory that does not grow with it. */
export async function hashSlices(blob: Blob, digest: Digest, hashing: Hashing): Promise<string> {
  for (let at = 0; at < blob.size; at += SLICE) {
    const piece = await read(blob, at, Math.min(at + SLICE, blob.size));
    hashing.signal.throwIfAborted();
    digest.update(piece);
    hashing.onHashed(at + piece.length);
  }
  return digest.digest("hex");
}

/** Some bytes of `blob`. Rejects with FileChanged when it is not what it was. */
export async function read(blob: Blob, start: number, end: number): Promise<Uint8Array> {
  let piece: Uint8Array;
  try {
    piece = new Uint8Array(await blob.slice(start, end).arrayBuffer());
  } catch (error) {
    throw unreadable(blob, error);
  }
  if (piece.length !== end - start) throw unreadable(blob, null);
  return piece;
}

function unreadable(blob: Blob, cause: unknown): FileUnreadable {
  const name = blob instanceof File && blob.name ? blob.name : "The file";
  const kind = cause instanceof Error ? cause.name : "";
  if (kind === "NotAllowedError" || kind === "SecurityError") {
    return new FileUnreadable(`${name} may not be read; choose it again.`, { cause });
  }
  return new FileChanged(
    `${name} was changed, moved or removed meanwhile; choose it again to upload it.`,
    { cause },
  );
}
