/** Hashing in browsers: in workers, or on the page's own thread where there are none. */

import { FileChanged, FileUnreadable, UpwellError } from "./errors.ts";
import type { HashReport, HashRequest } from "./hash-worker.ts";
import type { Hashing } from "./platform/platform.ts";
import { hashSlices } from "./slices.ts";

const MOST_WORKERS = 2;
const IDLE = 10_000; // milliseconds after which a worker's memory is given back

interface Job extends Hashing {
  resolve(digest: string): void;
  reject(error: unknown): void;
}

/** A few workers that all uploads share. */
export class Hashers {
  #workers: HashWorker[] = [];
  #broken = typeof Worker === "undefined";

  /** See {@link Platform.sha256}. */
  async sha256(blob: Blob, hashing: Hashing): Promise<string> {
    if (!this.#broken) {
      try {
        return await this.#worker().sha256(blob, hashing);
      } catch (error) {
        if (!(error instanceof WorkerBroken)) throw error;
        this.#broken = true; // such as by a bundler that did not emit it, or a policy
      }
    }
    return await hashHere(blob, hashing);
  }

  #worker(): HashWorker {
    this.#workers = this.#workers.filter((each) => !each.ended);
    const free = this.#workers.find((each) => each.jobs === 0);
    const most = Math.min(MOST_WORKERS, navigator.hardwareConcurrency || 1);
    if (free || this.#workers.length >= most) {
      return free ?? this.#workers.reduce((one, other) => (other.jobs < one.jobs ? other : one));
    }
    const made = new HashWorker();
    this.#workers.push(made);
    return made;
  }
}

/** The worker cannot be started. */
class WorkerBroken extends Error {}

class HashWorker {
  readonly #worker: Worker;
  readonly #jobs = new Map<number, Job>();
  ended = false;
  #next = 0;
  #idle: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    this.#worker = startWorker();
    this.#worker.onmessage = ({ data }: MessageEvent<HashReport>) => this.#heard(data);
    this.#worker.onerror = (event) => this.#broke(event.message);
  }

  get jobs(): number {
    return this.#jobs.size;
  }

  sha256(blob: Blob, hashing: Hashing): Promise<string> {
    clearTimeout(this.#idle);
    const id = this.#next++;
    const stop = () => {
      this.#tell({ id, stop: true });
      this.#finish(id)?.reject(hashing.signal.reason);
    };
    return new Promise<string>((resolve, reject) => {
      hashing.signal.throwIfAborted();
      hashing.signal.addEventListener("abort", stop);
      this.#jobs.set(id, { ...hashing, resolve, reject });
      this.#tell({ id, blob });
    }).finally(() => hashing.signal.removeEventListener("abort", stop));
  }

  #tell(request: HashRequest): void {
    this.#worker.postMessage(request);
  }

  #heard(report: HashReport): void {
    if ("hashed" in report) this.#jobs.get(report.id)?.onHashed(report.hashed);
    else if ("digest" in report) this.#finish(report.id)?.resolve(report.digest);
    else this.#finish(report.id)?.reject(failureOf(report.failure));
  }

  #broke(why: string): void {
    this.#end();
    for (const id of [...this.#jobs.keys()]) this.#finish(id)?.reject(new WorkerBroken(why));
  }

  #finish(id: number): Job | undefined {
    const job = this.#jobs.get(id);
    this.#jobs.delete(id);
    if (this.jobs === 0) {
      clearTimeout(this.#idle);
      this.#idle = setTimeout(() => this.#end(), IDLE);
    }
    return job;
  }

  #end(): void {
    this.ended = true;
    this.#worker.terminate();
  }
}

function startWorker(): Worker {
  try {
    // Written so that bundlers see it, and emit the worker beside the page.
    return new Worker(new URL("./hash-worker.js", import.meta.url), { type: "module" });
  } catch (error) {
    throw new WorkerBroken(String(error));
  }
}

function failureOf({ name, message }: { name: string; message: string }): UpwellError {
  if (name === "FileChanged") return new FileChanged(message);
  if (name === "FileUnreadable") return new FileUnreadable(message);
  return new UpwellError(`The file cannot be hashed: ${message}`);
}

/** On this thread, which gets its turns between the slices. */
async function hashHere(blob: Blob, hashing: Hashing): Promise<string> {
  const { createSHA256 } = await import("hash-wasm");
  return await hashSlices(blob, await createSHA256(), hashing);
}
