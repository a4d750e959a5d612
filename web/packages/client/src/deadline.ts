/** Stopping what is under way. */

import { ConnectionFailed } from "./errors.ts";

/** A signal that is aborted by the caller's, or on its own. */
export class Stop {
  readonly #controller = new AbortController();
  readonly #caller: AbortSignal | undefined;
  readonly #follow = () => this.abort(this.#caller?.reason);

  constructor(caller?: AbortSignal) {
    this.#caller = caller;
    if (caller?.aborted) this.#follow();
    else caller?.addEventListener("abort", this.#follow);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason);
  }

  /** What it was for is over. */
  end(): void {
    this.#caller?.removeEventListener("abort", this.#follow);
  }
}

/** Aborts with ConnectionFailed when its time is over. */
export class Deadline extends Stop {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #over = false;

  /** In so many milliseconds, or when the caller aborts. */
  constructor(time: number, caller?: AbortSignal) {
    super(caller);
    this.set(time);
  }

  /** In so many milliseconds from now; never once it has ended. */
  set(time: number): void {
    clearTimeout(this.#timer);
    if (this.#over) return;
    this.#timer = setTimeout(() => this.abort(stalled()), time);
  }

  override end(): void {
    this.#over = true;
    clearTimeout(this.#timer);
    super.end();
  }
}

/** What it means that nothing moves any more. */
export function stalled(): ConnectionFailed {
  return new ConnectionFailed("The server does not answer: the connection stalled.");
}
