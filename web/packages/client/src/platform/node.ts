import { createHash } from "node:crypto";
import { openAsBlob } from "node:fs";
import { stat } from "node:fs/promises";
import { basename } from "node:path";

import { FileUnreadable } from "../errors.ts";
import { fetchSending } from "../fetching.ts";
import { hashSlices } from "../slices.ts";
import type { Platform } from "./platform.ts";

export const platform: Platform = {
  maxConnections: 8,
  watchesBodies: false,
  send: (sending) => fetchSending(globalThis.fetch, sending),
  sha256: (blob, hashing) => hashSlices(blob, createHash("sha256"), hashing),
  open,
  online: () => Promise.resolve(false),
};

async function open(path: string): Promise<File> {
  try {
    const found = await stat(path);
    if (!found.isFile()) throw new FileUnreadable(`${path} is not a regular file.`);
    // Read piece by piece when it is asked for; a file that changed meanwhile is refused.
    const content = await openAsBlob(path);
    return new File([content], basename(path), { lastModified: Math.floor(found.mtimeMs) });
  } catch (error) {
    if (error instanceof FileUnreadable) throw error;
    const why = error instanceof Error ? error.message : String(error);
    throw new FileUnreadable(`${path} cannot be read: ${why}`, { cause: error });
  }
}
