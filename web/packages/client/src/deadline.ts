/** A time after which a request is given up. */

import { ConnectionFailed } from "./errors.ts";

/** Aborts `signal` with ConnectionFailed when its time is over, or with the caller's reason. */
export class Deadline {
  readonly #stop = new AbortController();
  readonly #caller: AbortSignal | undefined;
  readonly #abort = () => this.#stop.abort(this.#caller?.reason);
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** In so many milliseconds, or when the caller aborts. */
  constructor(time: number, caller?: AbortSignal) {
    this.#caller = caller;
    if (caller?.aborted) this.#abort();
    else caller?.addEventListener("abort", this.#abort);
    this.set(time);
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** In so many milliseconds from now. */
  set(time: number): void {
    clearTimeout(this.#timer);
    const stalled = new ConnectionFailed("The server does not answer: the connection stalled.");
    this.#timer = setTimeout(() => this.#stop.abort(stalled), time);
  }

  /** The request is over. */
  end(): void {
    clearTimeout(this.#timer);
    this.#caller?.removeEventListener("abort", this.#abort);
  }
}
