/** When to try again, and for how long. */

import { platform } from "#platform";

import { ApiError, PatienceOver, UpwellError } from "./errors.ts";

/** Milliseconds of waiting without one success, after which an upload is given up. */
export const PATIENCE = 15 * 60_000;

const FIRST_DELAY = 500;
const LONGEST_DELAY = 30_000;
const OUT_OF_SPACE = 507;
const OUT_OF_SPACE_DELAY = 15_000;

/** A pause before the next attempt: `delay` in milliseconds, and the failure that causes it. */
export interface Wait {
  delay: number;
  error: UpwellError;
}

/**
 * Tries requests again while their failures may pass.
 *
 * The patience is shared by all requests of an upload; one success renews it. It is counted in
 * pauses, so that the hours a laptop sleeps, or has no network, are not held against anyone.
 */
export class Retry {
  readonly #patience: number;
  readonly #onWait: (wait: Wait | null) => void;
  #waited = 0;
  #waiting = false;

  constructor(patience = PATIENCE, onWait: (wait: Wait | null) => void = () => {}) {
    this.#patience = patience;
    this.#onWait = onWait;
  }

  /**
   * What `attempt` resolves to, once it does. Rejects with PatienceOver, with an error that does
   * not pass, or with the signal's reason.
   */
  async call<T>(attempt: () => Promise<T>, signal: AbortSignal): Promise<T> {
    for (let number = 0; ; number += 1) {
      signal.throwIfAborted();
      try {
        const result = await attempt();
        this.#succeeded();
        return result;
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        await this.#pause(number, error, signal);
      }
    }
  }

  async #pause(number: number, error: unknown, signal: AbortSignal): Promise<void> {
    if (!(error instanceof UpwellError) || !error.retryable || this.#patience <= 0) throw error;
    const delay = delayOf(number, error);
    this.#waited += delay;
    if (this.#waited > this.#patience) {
      throw new PatienceOver(`Gave up. ${error.message}`, { cause: error });
    }
    this.#waiting = true;
    this.#onWait({ delay, error });
    if (await platform.online(signal)) return; // it has just come back: no need to wait longer
    await sleep(delay, signal);
  }

  #succeeded(): void {
    this.#waited = 0;
    if (!this.#waiting) return;
    this.#waiting = false;
    this.#onWait(null);
  }
}

/** Milliseconds to wait after the failure of attempt number `number` (from 0). */
export function delayOf(number: number, error: UpwellError): number {
  const ceiling = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** Math.min(number, 30));
  const delay = ceiling * (0.5 + Math.random() / 2);
  if (!(error instanceof ApiError)) return delay;
  const slowest = error.status === OUT_OF_SPACE ? OUT_OF_SPACE_DELAY : 0;
  return Math.max(delay, slowest, (error.retryAfter ?? 0) * 1000);
}

/** Resolves after so many milliseconds; rejects with the signal's reason. */
export function sleep(delay: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, delay);
    signal.addEventListener("abort", stop, { once: true });
  });
}
