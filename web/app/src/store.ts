import { useEffect, useRef, useState } from "preact/hooks";

/** A value that can be watched. */
export class Store<T> {
  readonly #listeners = new Set<() => void>();
  #value: T;

  constructor(value: T) {
    this.#value = value;
  }

  get value(): T {
    return this.#value;
  }

  set(value: T): void {
    if (Object.is(value, this.#value)) return;
    this.#value = value;
    for (const listener of [...this.#listeners]) listener();
  }

  /** Change some fields of an object. */
  patch(fields: Partial<T>): void {
    this.set({ ...this.#value, ...fields });
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** A store's value, or what `select` takes of it; renders again when that changes. */
export function useStore<T>(store: Store<T>): T;
export function useStore<T, S>(store: Store<T>, select: (value: T) => S): S;
export function useStore<T, S>(store: Store<T>, select?: (value: T) => S): T | S {
  const read = () => (select ? select(store.value) : store.value);
  const selected = read();
  const latest = useRef<{ read: () => T | S; selected: T | S }>({ read, selected });
  latest.current = { read, selected };
  const [, render] = useState(0);
  useEffect(() => {
    const check = () => {
      const { current } = latest;
      if (!Object.is(current.read(), current.selected)) render((count) => count + 1);
    };
    check(); // it may have changed between rendering and here
    return store.subscribe(check);
  }, [store]);
  return selected;
}
