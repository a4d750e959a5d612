import { createHash } from "node:crypto";
import { openAsBlob, type Stats } from "node:fs";
import {
  access,
  type FileHandle,
  open as openFile,
  readFile,
  rename,
  rm,
  stat,
} from "node:fs/promises";
import { basename } from "node:path";

import { FileUnreadable, TargetExists } from "../errors.ts";
import { fetchSending } from "../fetching.ts";
import { hashSlices, SLICE } from "../slices.ts";
import type { Platform, Target } from "./platform.ts";

const MADE_UP = 1 << 16; // bytes that a file without blocks on a disk may claim and not have

/** Tells how far it was read, which is as fast as the connection takes it. */
class WatchedBlob extends Blob {
  readonly #onRead: (bytes: number) => void;

  constructor(blob: Blob, onRead: (bytes: number) => void) {
    super([blob]);
    this.#onRead = onRead;
  }

  override stream() {
    let read = 0;
    const count = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform: (piece, next) => {
        read += piece.length;
        this.#onRead(read);
        next.enqueue(piece);
      },
    });
    return super.stream().pipeThrough(count);
  }
}

/** A part file, named after the file's id, so that another run finds it. */
class NodeTarget implements Target {
  size: number;
  readonly #file: FileHandle;
  readonly #part: string;
  readonly #path: string;
  readonly #overwrite: boolean;

  private constructor(file: FileHandle, part: string, path: string, size: number, over: boolean) {
    this.#file = file;
    this.#part = part;
    this.#path = path;
    this.#overwrite = over;
    this.size = size;
  }

  static async open(path: string, id: string, overwrite: boolean): Promise<NodeTarget> {
    const part = `${path}.${id}.part`;
    try {
      if (!overwrite) await requireFree(path);
      const file = await openFile(part, "a+", 0o600);
      return new NodeTarget(file, part, path, (await file.stat()).size, overwrite);
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  async append(data: Uint8Array): Promise<void> {
    try {
      await this.#file.appendFile(data);
      this.size += data.length;
    } catch (error) {
      throw unwritable(this.#part, error);
    }
  }

  async digest(algorithm: string): Promise<string> {
    const hash = createHash(algorithm);
    const buffer = new Uint8Array(SLICE);
    for (let at = 0; ; ) {
      const { bytesRead } = await this.#file.read(buffer, 0, SLICE, at);
      if (bytesRead === 0) return hash.digest("hex");
      hash.update(buffer.subarray(0, bytesRead));
      at += bytesRead;
    }
  }

  async publish(): Promise<void> {
    try {
      await this.#file.sync();
      await this.close();
      if (!this.#overwrite) await requireFree(this.#path);
      await rename(this.#part, this.#path);
    } catch (error) {
      throw unwritable(this.#path, error);
    }
  }

  async discard(): Promise<void> {
    await this.close();
    await rm(this.#part, { force: true });
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

export const platform: Platform = {
  maxConnections: 8,
  watches: (body) => body instanceof Blob,
  send: (sending) => {
    const { body, onSent } = sending;
    const watched = body instanceof Blob ? new WatchedBlob(body, onSent) : body;
    return fetchSending(globalThis.fetch, { ...sending, body: watched });
  },
  sha256: (blob, hashing) => hashSlices(blob, createHash("sha256"), hashing),
  open,
  target: NodeTarget.open,
  online: () => Promise.resolve(false),
};

async function requireFree(path: string): Promise<void> {
  const taken = await access(path).then(
    () => true,
    () => false,
  );
  if (taken) throw new TargetExists(`${path} is there already; choose another name.`);
}

function unwritable(path: string, error: unknown): FileUnreadable {
  if (error instanceof FileUnreadable) return error;
  const why = error instanceof Error ? error.message : String(error);
  return new FileUnreadable(`${path} cannot be written: ${why}`, { cause: error });
}

/**
 * The content of a file that is not of the size it claims, such as those the kernel makes up in /proc
 * and /sys; otherwise null: it is read piece by piece when it is asked for.
 */
async function unsized(path: string, found: Stats): Promise<Blob | null> {
  if (found.size > 0 && (found.blocks > 0 || found.size > MADE_UP)) return null;
  const content = await readFile(path);
  return content.length === found.size ? null : new Blob([content]);
}

/** A file that changes after this is refused when it is read. */
async function open(path: string): Promise<File> {
  try {
    const found = await stat(path);
    if (!found.isFile()) throw new FileUnreadable(`${path} is not a regular file.`);
    const content = (await unsized(path, found)) ?? (await openAsBlob(path));
    return new File([content], basename(path), { lastModified: Math.floor(found.mtimeMs) });
  } catch (error) {
    if (error instanceof FileUnreadable) throw error;
    const why = error instanceof Error ? error.message : String(error);
    throw new FileUnreadable(`${path} cannot be read: ${why}`, { cause: error });
  }
}
