/** Receiving a file: resumed where an earlier run stopped, verified. */

import { platform } from "#platform";

import { stalled } from "./deadline.ts";
import { ConnectionFailed, ContentMismatch } from "./errors.ts";
import { failureOf } from "./fetching.ts";
import type { CloudFile } from "./model.ts";
import type { Target } from "./platform/platform.ts";
import type { Files } from "./resources.ts";
import { Retry, type Wait } from "./retry.ts";

const STALL = 30_000; // milliseconds without a byte after which it is asked for again
const ALGORITHMS = new Map([
  [32, "md5"],
  [40, "sha1"],
  [64, "sha256"],
  [128, "sha512"],
]);

export interface DownloadOptions {
  /** Of an encrypted file. */
  password?: string | undefined;
  /** Replace what is at the path. */
  overwrite?: boolean | undefined;
  /** Milliseconds of waiting without one success, after which it fails; 15 minutes by default. */
  patience?: number | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: { bytes: number; total: number }) => void) | undefined;
  onWait?: ((wait: Wait | null) => void) | undefined;
}

/** See {@link Files.download}. */
export async function download(
  files: Files,
  id: string,
  path: string,
  options: DownloadOptions,
): Promise<CloudFile> {
  const signal = options.signal ?? new AbortController().signal;
  const retry = new Retry(options.patience, options.onWait);
  const file = await retry.call(() => files.info(id), signal);
  const target = await platform.target(path, file.id, options.overwrite ?? false);
  try {
    await fill(target, file, files, retry, signal, options);
    await verify(target, file);
    await target.publish();
    return file;
  } catch (error) {
    await (error instanceof ContentMismatch ? target.discard() : target.close());
    throw error;
  }
}

/** Append what lacks. A stored file never changes: its pieces fit whenever they were read. */
async function fill(
  target: Target,
  file: CloudFile,
  files: Files,
  retry: Retry,
  signal: AbortSignal,
  options: DownloadOptions,
): Promise<void> {
  const tell = () => options.onProgress?.({ bytes: target.size, total: file.size });
  while (target.size < file.size) {
    tell();
    const before = target.size;
    const attempt = async () => {
      try {
        await receive(target, files, file, options, signal, tell);
        if (target.size === before) throw new ConnectionFailed("The server sends nothing.");
      } catch (error) {
        // Whatever came is progress: the next attempt begins a new row of failures.
        if (!(error instanceof ConnectionFailed) || target.size === before) throw error;
      }
    };
    await retry.call(attempt, signal);
  }
  tell();
}

async function receive(
  target: Target,
  files: Files,
  file: CloudFile,
  options: DownloadOptions,
  signal: AbortSignal,
  tell: () => void,
): Promise<void> {
  const { password } = options;
  const asked = { download: true, range: [target.size] as const, password, signal };
  const response = await files.open(file.id, asked);
  if (target.size > 0 && response.status !== 206) {
    throw new ContentMismatch("The server does not go on where the download stopped.");
  }
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  try {
    for (;;) {
      const { done, value } = await withinTime(reader.read());
      if (done) return;
      await target.append(value);
      tell();
    }
  } catch (error) {
    void reader.cancel().catch(() => {});
    throw error instanceof TypeError
      ? failureOf(error, signal)
      : signal.aborted
        ? signal.reason
        : error;
  }
}

async function withinTime<T>(work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(stalled()), STALL);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function verify(target: Target, file: CloudFile): Promise<void> {
  const algorithm = ALGORITHMS.get(file.hash.length);
  if (target.size === file.size && algorithm) {
    if ((await target.digest(algorithm)) === file.hash) return;
  }
  throw new ContentMismatch("What arrived is not the file; it was thrown away. Download it again.");
}
