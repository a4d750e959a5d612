/** Sending a file: hashed first, resumed where an earlier attempt stopped, verified. */

import { platform } from "#platform";
import { Deadline, Stop } from "./deadline.ts";
import {
  ApiError,
  Cancelled,
  ConnectionFailed,
  ContentMismatch,
  FileChanged,
  UpwellError,
} from "./errors.ts";
import type { Http } from "./http.ts";
import type { CloudFile, TaskChunks } from "./model.ts";
import { Files } from "./resources.ts";
import { Retry, type Wait } from "./retry.ts";
import { read } from "./slices.ts";
import type { Connections, Slots } from "./slots.ts";
import { type Remembered, rememberedOf, tokenOf } from "./token.ts";

const CHUNK_SIZE = 5 << 20;
/** Bytes up to which one request is quicker than asking first whether the server has the file. */
const DIRECT_SIZE = 1 << 20;
const VERIFIED_WITHIN = 900_000; // milliseconds: after a restart the server reads the file again
const ANSWER = 4; // times as long may the answer take, once the body is out of our hands
const SLOWEST = 16; // bytes a millisecond that a body makes at least, where nobody can watch it
// The server takes smaller ones only, or the body was damaged.
const NOT_DIRECTLY = new Set(["BODY_TOO_LARGE", "HASH_MISMATCH", "FORM_INVALID"]);
const EVERY = 50; // milliseconds between two reports of progress
const MOST_ROUNDS = 5;
const MOST_TASKS = 3;
const DEFAULT_POOL = "00000000-0000-4000-8000-000000000001";

/** A file, a blob, or in Node the path of a file. */
export type Source = Blob | string;

/** Where an upload is: its bytes are hashed, then sent, then verified by the server. */
export type Phase = "hashing" | "sending" | "verifying";

/** `bytes` of `total` are done in this phase. They may go back: what was lost is sent again. */
export interface Progress {
  phase: Phase;
  bytes: number;
  total: number;
}

/** The file on the server; `existing` when its content was there already. */
export interface Uploaded {
  file: CloudFile;
  existing: boolean;
}

/** How a file is to be stored, and how it gets there. */
export interface UploadOptions {
  /** The name of the file, when it is not the source's own. */
  name?: string | undefined;
  /** Its media type, when it is not the source's own; the server finds it out when both lack. */
  type?: string | undefined;
  poolId?: string | undefined;
  bundleId?: string | undefined;
  /** From when on the file is to be gone. */
  expiresAt?: Date | string | undefined;
  /** Seconds until the file is gone, by the server's clock; instead of `expiresAt`. */
  expiresIn?: number | undefined;
  /** The server stores the file encrypted under it. It is never part of the token. */
  password?: string | undefined;
  /** Bytes; 5 MiB by default. The server has the last word. */
  chunkSize?: number | undefined;
  /** Milliseconds of waiting without one success, after which it fails; 15 minutes by default. */
  patience?: number | undefined;
  /** Cancels the upload. */
  signal?: AbortSignal | undefined;
  /**
   * Of an earlier upload of this file: what it knew is not found out again. The other options count
   * as they are given now. Another `poolId` is refused: an upload stays in its pool.
   */
  token?: string | undefined;
  /** Told what to save, to go on in another page or process. */
  onToken?: ((token: string) => void) | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
  onPhase?: ((phase: Phase) => void) | undefined;
  /** Told of every pause after a failure, and with `null` when things go on. */
  onWait?: ((wait: Wait | null) => void) | undefined;
}

/** What all uploads of a client share. */
export interface Shared {
  readonly http: Http;
  /** Bodies on their way. */
  readonly connections: Connections;
  /** Files that are hashed. */
  readonly hashing: Slots;
  /** Files that are sent. */
  readonly sending: Slots;
  /** Milliseconds without progress after which a chunk is sent again. */
  readonly stall: number;
}

/** What create answers. */
type Created =
  | { file_exists: true; file: CloudFile }
  | { file_exists: false; task_id: string; chunk_size: number; chunks_count: number };

const PAUSED = new Cancelled("The upload is paused.");

/** An upload on its way. */
export class Upload {
  /** Resolves when the server has verified the file. Rejects with an UpwellError. */
  readonly done: Promise<Uploaded>;
  readonly #shared: Shared;
  readonly #source: Source;
  readonly #options: UploadOptions;
  readonly #retry: Retry;
  #resolve!: (uploaded: Uploaded) => void;
  #reject!: (error: unknown) => void;
  #state: "running" | "paused" | "ended" = "running";
  #run = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #remembered: Remembered | null = null;
  #task: string | null = null;
  #recalled = false; // the task is a token's, and may have other options
  #digest: Promise<string> | null = null; // found out once, whatever pauses there are
  #told = { phase: "" as Phase | "", at: 0 };
  readonly #gone = new AbortController(); // aborted by cancel alone

  /** Begins at once. */
  constructor(shared: Shared, source: Source, options: UploadOptions) {
    this.#shared = shared;
    this.#source = source;
    this.#options = options;
    this.#retry = new Retry(options.patience, options.onWait);
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.done.catch(() => {}); // whoever cancels need not listen
    this.#start();
    if (options.signal) this.#obey(options.signal);
  }

  /** What to save to go on another day; `null` until the file was hashed. */
  get token(): string | null {
    return this.#remembered && tokenOf(this.#remembered);
  }

  get paused(): boolean {
    return this.#state === "paused";
  }

  /** Stop sending until `resume`. */
  pause(): void {
    if (this.#state !== "running") return;
    this.#state = "paused";
    this.#run.abort(PAUSED);
  }

  /** Go on after `pause`. */
  resume(): void {
    if (this.#state !== "paused") return;
    this.#state = "running";
    this.#start();
  }

  /**
   * Stop for good, and free what the server received; `done` rejects with Cancelled. Rejects with
   * an UpwellError when the server cannot be told: then it lets go of the upload days later.
   */
  async cancel(): Promise<void> {
    if (this.#state === "ended") return;
    const reason = new Cancelled("The upload was cancelled.");
    this.#state = "ended";
    this.#run.abort(reason);
    this.#gone.abort(reason);
    this.#reject(reason);
    await this.#running; // a task that is just being created is known then
    await this.#abandon();
  }

  /** Cancelled by the signal, which may be the caller's for many uploads. */
  #obey(signal: AbortSignal): void {
    const cancel = () => void this.cancel().catch(() => {});
    const ended = () => signal.removeEventListener("abort", cancel);
    signal.addEventListener("abort", cancel);
    this.done.then(ended, ended);
    if (signal.aborted) cancel();
  }

  #start(): void {
    const before = this.#running;
    const run = new AbortController();
    this.#run = run;
    this.#running = before.then(() => this.#attempt(run.signal));
  }

  async #attempt(signal: AbortSignal): Promise<void> {
    try {
      signal.throwIfAborted();
      const uploaded = await this.#upload(signal);
      this.#state = "ended";
      this.#resolve(uploaded);
    } catch (error) {
      if (signal.aborted) return;
      this.#state = "ended";
      this.#reject(error);
    }
  }

  async #upload(signal: AbortSignal): Promise<Uploaded> {
    const file = await this.#open();
    signal.throwIfAborted();
    for (let tries = 1; ; tries += 1) {
      const known = await this.#know(file, signal);
      try {
        return await this.#send(file, known, signal);
      } catch (error) {
        const again = error instanceof Outdated || isLost(error);
        if (!again || tries >= MOST_TASKS) throw error;
        await this.#abandon();
      }
    }
  }

  async #send(file: Blob, known: Remembered, signal: AbortSignal): Promise<Uploaded> {
    const leave = await this.#shared.sending.take(signal);
    try {
      this.#enter("sending");
      this.#tell("sending", 0, file.size);
      if (this.#fitsDirect(file, known)) {
        const stored = await this.#direct(file, known, signal);
        if (stored) return { file: stored, existing: false };
      }
      return await this.#byTask(file, known, signal);
    } finally {
      leave();
    }
  }

  #fitsDirect(file: Blob, known: Remembered): boolean {
    if (file.size > DIRECT_SIZE || this.#options.password || this.#task) return false;
    // Forms turn each line break into CRLF; JSON keeps it.
    return !/[\r\n]/.test(this.#nameOf(known));
  }

  #nameOf(known: Remembered): string {
    return this.#options.name ?? (known.name || "file");
  }

  async #open(): Promise<Blob> {
    return typeof this.#source === "string" ? await platform.open(this.#source) : this.#source;
  }

  // What the file is

  /** Its digest: remembered, or found out. */
  async #know(file: Blob, signal: AbortSignal): Promise<Remembered> {
    const looks = looksOf(file);
    this.#remembered ??= this.#recall(looks);
    if (this.#remembered) return this.#remembered;
    this.#enter("hashing");
    this.#digest ??= this.#hash(file, this.#gone.signal);
    const digest = await unless(signal, this.#digest);
    return this.#remember({ ...looks, digest, task: null });
  }

  /** What the token says, when it still is about this very file. */
  #recall(looks: Looks): Remembered | null {
    if (this.#options.token === undefined) return null;
    const told = rememberedOf(this.#options.token);
    const same = told.name === looks.name && told.size === looks.size;
    // Without a time, other content of the same size would pass for the same.
    if (!same || looks.modified === 0 || told.modified !== looks.modified) return null;
    this.#task = told.task;
    this.#recalled = told.task !== null;
    return told;
  }

  #remember(remembered: Remembered): Remembered {
    this.#remembered = remembered;
    this.#options.onToken?.(tokenOf(remembered));
    return remembered;
  }

  async #hash(file: Blob, signal: AbortSignal): Promise<string> {
    const leave = await this.#shared.hashing.take(signal);
    try {
      const onHashed = (bytes: number) => this.#tell("hashing", bytes, file.size);
      return await platform.sha256(file, { signal, onHashed });
    } finally {
      leave();
    }
  }

  // One request

  /** The stored file; `null` when it has to go by a task. */
  async #direct(file: Blob, known: Remembered, signal: AbortSignal): Promise<CloudFile | null> {
    const form = new FormData();
    for (const [name, value] of Object.entries(this.#asked(file, known))) {
      if (value !== undefined) form.append(name, String(value));
    }
    form.append("file", file);
    const onSent = (bytes: number) => this.#tell("sending", Math.min(bytes, file.size), file.size);
    try {
      const path = "/api/files/upload/direct";
      const send = () => this.#body<CloudFile>("POST", path, form, file, 0, onSent, signal);
      return this.#verified(await this.#retry.call(send, signal), known);
    } catch (error) {
      if (error instanceof ApiError && NOT_DIRECTLY.has(error.code)) return null;
      throw error;
    }
  }

  // By a task

  async #byTask(file: Blob, known: Remembered, signal: AbortSignal): Promise<Uploaded> {
    if (this.#recalled) await this.#takeUp(file, known, signal);
    const verified = await this.#verifiedMeanwhile(file, known, signal);
    if (verified) return { file: verified, existing: false };
    const created = await this.#create(file, known, signal);
    if (created.file_exists) {
      return { file: this.#verified(created.file, known), existing: this.#task === null };
    }
    this.#recalled = false;
    if (this.#task !== created.task_id) {
      this.#task = created.task_id;
      this.#remember({ ...known, task: created.task_id });
    }
    const task = await this.#retry.call(() => this.#chunks(created.task_id, signal), signal);
    const sender = new Sender(file, task, this.#shared.connections.most, signal, {
      put: (index, body, onSent, stop) => this.#chunk(task, index, body, file, onSent, stop),
      moved: (bytes) => this.#tell("sending", bytes, file.size),
    });
    await sender.send(task.missing_chunks);
    return { file: await this.#complete(sender, task, file, known, signal), existing: false };
  }

  /** Give the task of a token the options that count now; create finds it by them. */
  async #takeUp(file: Blob, known: Remembered, signal: AbortSignal): Promise<void> {
    const { hash: _, file_size: __, ...json } = this.#asked(file, known);
    const path = `/api/files/upload/resume/${this.#task}`;
    const ask = () => this.#shared.http.request<TaskChunks>("PUT", path, { json, signal });
    try {
      await this.#retry.call(ask, signal);
      this.#recalled = false;
    } catch (error) {
      if (!isLost(error)) throw error; // it has ended; create tells what became of it
    }
  }

  /**
   * The file that our task became while a pause, or the end of a page, kept us from hearing of it.
   * Create finds it by its content, but not when it is encrypted: all of it would be sent again. With
   * other options it is not the file that is asked for.
   */
  async #verifiedMeanwhile(
    source: Blob,
    known: Remembered,
    signal: AbortSignal,
  ): Promise<CloudFile | null> {
    const { password } = this.#options;
    const task = this.#task;
    if (task === null || password === undefined) return null;
    try {
      const told = await this.#retry.call(() => this.#chunks(task, signal), signal);
      if (told.status !== "completed") return null;
      if (this.#recalled && !hasOptions(told, this.#asked(source, known))) return null;
      const file = await this.#verify(task, known, signal);
      return (await this.#isOpenedBy(password, file, signal)) ? file : null;
    } catch (error) {
      if (isLost(error)) return null;
      throw error;
    }
  }

  /** A token does not say under which password its upload was begun. */
  async #isOpenedBy(password: string, file: CloudFile, signal: AbortSignal): Promise<boolean> {
    if (!file.is_encrypted) return false;
    const range = file.size > 0 ? ([0, 0] as const) : undefined;
    const files = new Files(this.#shared.http);
    try {
      const open = () => files.open(file.id, { password, range, signal });
      const answer = await this.#retry.call(open, signal);
      await answer.body?.cancel();
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.code === "PASSWORD_WRONG") return false;
      throw error;
    }
  }

  async #create(file: Blob, known: Remembered, signal: AbortSignal): Promise<Created> {
    const json = {
      ...this.#asked(file, known),
      encrypt_password: this.#options.password,
      chunk_size: this.#options.chunkSize ?? CHUNK_SIZE,
    };
    // Not stopped half-way: else the task that it makes would be nobody's.
    const ask = () =>
      this.#shared.http.request<Created>("POST", "/api/files/upload/create", { json });
    const created = await this.#retry.call(ask, signal);
    if (signal.aborted && !created.file_exists) this.#task = created.task_id;
    signal.throwIfAborted();
    return created;
  }

  #asked(file: Blob, known: Remembered): Record<string, string | number | undefined> {
    const { type, poolId, bundleId, expiresAt, expiresIn } = this.#options;
    return {
      hash: known.digest,
      file_name: this.#nameOf(known),
      file_size: file.size,
      content_type: type ?? (file.type || undefined),
      pool_id: poolId,
      bundle_id: bundleId,
      expired_at: expiresAt instanceof Date ? expiresAt.toISOString() : expiresAt,
      expires_in: expiresIn,
    };
  }

  #chunks(task: string, signal: AbortSignal): Promise<TaskChunks> {
    return this.#shared.http.request("GET", `/api/files/upload/resume/${task}`, { signal });
  }

  async #chunk(
    task: TaskChunks,
    index: number,
    body: Blob,
    file: Blob,
    onSent: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const path = `/api/files/upload/chunk/${task.task_id}/${index}`;
    const at = index * task.chunk_size;
    const send = () => this.#body("PUT", path, body, file, at, onSent, signal);
    await this.#retry.call(send, signal);
  }

  async #complete(
    sender: Sender,
    task: TaskChunks,
    file: Blob,
    known: Remembered,
    signal: AbortSignal,
  ): Promise<CloudFile> {
    let resent = false;
    for (let round = 0; round < MOST_ROUNDS; round += 1) {
      this.#enter("verifying");
      this.#tell("verifying", task.file_size, task.file_size);
      try {
        return await this.#verify(task.task_id, known, signal);
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.code === "HASH_MISMATCH") {
          if (resent) break;
          await this.#requireUnchanged(file, known, signal);
          resent = true;
        } else if (error.code !== "CHUNKS_MISSING") throw error;
        this.#enter("sending");
        await sender.again(await this.#lacking(task, error, signal));
      }
    }
    await this.#abandon();
    throw new ContentMismatch("What the server receives keeps differing from the file; gave up.");
  }

  /** Have the server verify what it received. */
  async #verify(task: string, known: Remembered, signal: AbortSignal): Promise<CloudFile> {
    const path = `/api/files/upload/complete/${task}`;
    const asked = { signal, timeout: VERIFIED_WITHIN };
    const ask = () => this.#shared.http.request<CloudFile>("POST", path, asked);
    return this.#verified(await this.#retry.call(ask, signal), known);
  }

  /**
   * Make sure that the damage was not done here. Rejects with FileChanged, or with Outdated when
   * it was the token that knew another content.
   */
  async #requireUnchanged(file: Blob, known: Remembered, signal: AbortSignal): Promise<void> {
    this.#enter("hashing");
    const digest = await this.#hash(file, signal);
    if (digest === known.digest) return;
    if (this.#digest === null) {
      this.#digest = Promise.resolve(digest);
      this.#remembered = { ...known, digest, task: null };
      throw new Outdated();
    }
    await this.#abandon();
    throw new FileChanged("The file was changed while it was being sent; upload it again.");
  }

  /** The chunks that a refusal to complete is about. */
  async #lacking(task: TaskChunks, refusal: ApiError, signal: AbortSignal): Promise<number[]> {
    if (refusal.code === "HASH_MISMATCH") return [...Array(task.chunks_count).keys()];
    const figures = await this.#retry.call(() => this.#chunks(task.task_id, signal), signal);
    return figures.missing_chunks;
  }

  #verified(file: CloudFile, known: Remembered): CloudFile {
    // What was there already may have come with a digest of another kind than ours.
    const other = file.hash.length !== known.digest.length;
    if (file.size === known.size && (other || file.hash === known.digest)) return file;
    throw new ContentMismatch("The server stored something else than this file.");
  }

  // Bodies

  /** Send a body when a connection is free; sent again by whoever calls when it stalls. */
  async #body<T>(
    method: string,
    path: string,
    body: Blob | FormData,
    file: Blob,
    at: number,
    onSent: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<T> {
    const { connections, http, stall } = this.#shared;
    const size = body instanceof Blob ? body.size : file.size;
    const giveBack = await connections.slots.take(signal);
    // Where nobody watches a body, all of it has to be over in a time that its size allows.
    const deadline = new Deadline(http.watches(body) ? stall : stall + size / SLOWEST, signal);
    const sent = (bytes: number) => {
      deadline.set(bytes < size ? stall : ANSWER * stall);
      onSent(bytes);
    };
    try {
      const answer = await http.send<T>(method, path, {
        body,
        signal: deadline.signal,
        onSent: sent,
      });
      connections.succeeded(size);
      return answer;
    } catch (error) {
      onSent(0);
      if (error instanceof UpwellError && error.retryable) connections.failed();
      // A file that changed looks to a browser like a connection that broke.
      if (error instanceof ConnectionFailed && size > 0) await read(file, at, at + 1);
      throw error;
    } finally {
      deadline.end();
      giveBack();
    }
  }

  async #abandon(): Promise<void> {
    const task = this.#task;
    this.#task = null;
    this.#recalled = false;
    if (task) await discardTask(this.#shared.http, task);
  }

  #enter(phase: Phase): void {
    this.#options.onPhase?.(phase);
  }

  #tell(phase: Phase, bytes: number, total: number): void {
    const now = performance.now();
    const worth = bytes === total || phase !== this.#told.phase || now - this.#told.at >= EVERY;
    if (this.#state !== "running" || !worth) return;
    this.#told = { phase, at: now };
    this.#options.onProgress?.({ phase, bytes, total });
  }
}

/** What `work` resolves to, unless the signal is aborted first; it goes on then. */
async function unless<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const stop = new Stop(signal);
  const stopped = new Promise<never>((_, reject) => {
    stop.signal.addEventListener("abort", () => reject(signal.reason));
  });
  try {
    signal.throwIfAborted();
    return await Promise.race([work, stopped]);
  } finally {
    stop.end();
  }
}

/** Whether a task that ended had the options of a request; a duration cannot be compared. */
function hasOptions(task: TaskChunks, asked: Record<string, unknown>): boolean {
  const ends = asked["expired_at"] === undefined ? null : Date.parse(String(asked["expired_at"]));
  const ended = task.expired_at === null ? null : Date.parse(task.expired_at);
  return (
    asked["expires_in"] === undefined &&
    ends === ended &&
    task.file_name === asked["file_name"] &&
    task.content_type === (asked["content_type"] ?? "application/octet-stream") &&
    task.pool_id === (asked["pool_id"] ?? DEFAULT_POOL) &&
    task.bundle_id === (asked["bundle_id"] ?? null)
  );
}

/** The token's digest is not the file's. */
class Outdated extends Error {}

type Looks = Pick<Remembered, "name" | "size" | "modified">;

function looksOf(file: Blob): Looks {
  const { name = "", lastModified = 0 } = file as Partial<File>;
  return { name, size: file.size, modified: lastModified };
}

/** Cancel a task; one that is gone already is fine. Rejects with an UpwellError. */
export async function discardTask(http: Http, task: string): Promise<void> {
  const stop = new AbortController().signal;
  try {
    const ask = () => http.request<void>("DELETE", `/api/files/upload/${task}`);
    await new Retry(10_000).call(ask, stop);
  } catch (error) {
    if (!isLost(error)) throw error;
  }
}

/** Whether the task is no use any more, and another one may be. */
function isLost(error: unknown): boolean {
  const codes = ["TASK_NOT_FOUND", "TASK_CLOSED", "CHUNK_CONFLICT"];
  return error instanceof ApiError && codes.includes(error.code);
}

/** How a sender reaches the world. */
interface Ways {
  put(
    index: number,
    body: Blob,
    onSent: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<void>;
  moved(bytes: number): void;
}

/** Sends chunks of one task in parallel, and knows how many bytes are there. */
class Sender {
  readonly #file: Blob;
  readonly #task: TaskChunks;
  readonly #signal: AbortSignal;
  readonly #ways: Ways;
  readonly #workers: number;
  readonly #sent = new Map<number, number>(); // bytes of chunks on their way
  #there: number;

  constructor(file: Blob, task: TaskChunks, workers: number, signal: AbortSignal, ways: Ways) {
    this.#workers = workers;
    this.#file = file;
    this.#task = task;
    this.#signal = signal;
    this.#ways = ways;
    this.#there = task.uploaded_bytes;
    ways.moved(this.#there);
  }

  /** Send these chunks again, which the server does not have after all. */
  async again(chunks: number[]): Promise<void> {
    this.#there = Math.max(
      0,
      this.#there - chunks.reduce((sum, each) => sum + this.#size(each), 0),
    );
    await this.send(chunks);
  }

  /** Send these chunks; the first failure stops the others. */
  async send(chunks: number[]): Promise<void> {
    const stop = new Stop(this.#signal);
    const left = [...chunks].reverse();
    const work = async () => {
      for (let index = left.pop(); index !== undefined; index = left.pop()) {
        await this.#send(index, stop.signal);
      }
    };
    const workers = Array.from({ length: Math.min(this.#workers, chunks.length) }, work);
    try {
      await Promise.all(workers);
    } catch (error) {
      stop.abort(error);
      await Promise.allSettled(workers);
      throw error;
    } finally {
      stop.end();
    }
  }

  async #send(index: number, signal: AbortSignal): Promise<void> {
    const at = index * this.#task.chunk_size;
    const body = this.#file.slice(at, at + this.#size(index));
    const onSent = (bytes: number) => this.#moved(index, Math.min(bytes, body.size));
    await this.#ways.put(index, body, onSent, signal);
    this.#sent.delete(index);
    this.#there += body.size;
    this.#tell();
  }

  #moved(index: number, bytes: number): void {
    this.#sent.set(index, bytes);
    this.#tell();
  }

  #tell(): void {
    let bytes = this.#there;
    for (const each of this.#sent.values()) bytes += each;
    this.#ways.moved(bytes);
  }

  #size(index: number): number {
    const { chunk_size, file_size } = this.#task;
    return Math.min(chunk_size, file_size - index * chunk_size);
  }
}
