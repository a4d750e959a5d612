interface Sample {
  at: number; // milliseconds
  bytes: number;
}

const WINDOW_MILLISECONDS = 8000;

/** How fast something grows, over the last seconds. */
export class Rate {
  #samples: Sample[] = [];

  note(bytes: number, at = performance.now()): void {
    const last = this.#samples.at(-1);
    if (last && bytes < last.bytes) this.#samples = []; // it began anew
    this.#samples.push({ at, bytes });
    const oldest = at - WINDOW_MILLISECONDS;
    while (this.#samples.length > 2 && (this.#samples[1] as Sample).at <= oldest) {
      this.#samples.shift();
    }
  }

  /** Begin anew, after a rest. */
  forget(): void {
    this.#samples = [];
  }

  /** Bytes per second; 0 until it is known. */
  get value(): number {
    const [first] = this.#samples;
    const last = this.#samples.at(-1);
    if (!first || !last || last.at - first.at < 500) return 0;
    return ((last.bytes - first.bytes) * 1000) / (last.at - first.at);
  }
}
