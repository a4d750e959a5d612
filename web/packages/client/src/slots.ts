/** How many things happen at once. */

/** A number of slots, taken in turn. */
export class Slots {
  #limit: number;
  #taken = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  get limit(): number {
    return this.#limit;
  }

  /** Slots from now on; those that are taken beyond it are not taken away. */
  set limit(value: number) {
    this.#limit = value;
    this.#admit();
  }

  /** Whether somebody has to wait. */
  get contended(): boolean {
    return this.#waiting.length > 0;
  }

  /** Take a slot; what resolves gives it back. Rejects with the signal's reason. */
  take(signal: AbortSignal): Promise<() => void> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const admitted = () => {
        signal.removeEventListener("abort", left);
        resolve(() => this.#giveBack());
      };
      const left = () => {
        this.#waiting.splice(this.#waiting.indexOf(admitted), 1);
        reject(signal.reason);
      };
      signal.addEventListener("abort", left, { once: true });
      this.#waiting.push(admitted);
      this.#admit();
    });
  }

  #giveBack(): void {
    this.#taken -= 1;
    this.#admit();
  }

  #admit(): void {
    while (this.#taken < this.#limit) {
      const next = this.#waiting.shift();
      if (!next) return;
      this.#taken += 1;
      next();
    }
  }
}

const FIRST = 2;
const WINDOW = 300; // milliseconds that a rate is measured over, at least
const GAIN = 1.05; // a connection more is kept when the rate grows by that
const REST = 8; // windows without another attempt to have more
const TOGETHER = 1000; // milliseconds within which failures have one cause
const OVERHEAD = 64 << 10; // bytes that a request counts for, besides its body

/**
 * Connections for bodies, shared by all uploads of a client: one more as long as that moves more
 * bytes, half as many when one fails.
 */
export class Connections {
  readonly slots: Slots;
  /** How many there can be. */
  readonly most: number;
  readonly #fixed: boolean;
  #began = performance.now();
  #moved = 0;
  #requests = 0;
  #before = 0; // the rate with one connection less
  #resting = 0;
  #failed = Number.NEGATIVE_INFINITY;

  /** At most `most` of them; always that many when `fixed`. */
  constructor(most: number, fixed = false) {
    this.most = most;
    this.#fixed = fixed;
    this.slots = new Slots(fixed ? most : Math.min(FIRST, most));
  }

  /** A body of so many bytes went over. */
  succeeded(bytes: number): void {
    this.#moved += bytes + OVERHEAD;
    this.#requests += 1;
    const elapsed = performance.now() - this.#began;
    if (elapsed < WINDOW || this.#requests < 2 * this.slots.limit) return;
    if (!this.#fixed && this.slots.contended) this.#judge(this.#moved / elapsed);
    this.#measureAnew();
  }

  /** A connection broke or stalled, or the server has too much to do. */
  failed(): void {
    const now = performance.now();
    if (now - this.#failed < TOGETHER) return;
    this.#failed = now;
    if (!this.#fixed) this.slots.limit = Math.max(1, this.slots.limit >> 1);
    this.#before = 0;
    this.#resting = REST;
    this.#measureAnew();
  }

  #judge(rate: number): void {
    if (this.#resting > 0) {
      this.#resting -= 1;
      this.#before = 0;
    } else if (rate > this.#before * GAIN && this.slots.limit < this.most) {
      this.#before = rate;
      this.slots.limit += 1;
    } else if (rate <= this.#before * GAIN && this.slots.limit > 1 && this.#before > 0) {
      this.slots.limit -= 1;
      this.#resting = REST;
    }
  }

  #measureAnew(): void {
    this.#began = performance.now();
    this.#moved = this.#requests = 0;
  }
}
