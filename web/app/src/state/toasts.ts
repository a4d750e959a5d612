import { Store } from "../store.ts";
import { explain, noteFailure } from "./session.ts";

export interface Toast {
  id: number;
  text: string;
  kind: "info" | "error";
  action?: { label: string; run: () => void };
}

export const toasts = new Store<readonly Toast[]>([]);
/** What a screen reader says, and nobody sees. */
export const announcement = new Store("");

const SECONDS = { info: 4, error: 10 };
let last = 0;

/** Show a sentence for a while; its id takes it away earlier. */
export function tell(
  text: string,
  {
    kind = "info",
    action,
    seconds,
  }: Partial<Omit<Toast, "id" | "text">> & { seconds?: number } = {},
): number {
  last += 1;
  const toast: Toast = { id: last, text, kind, ...(action ? { action } : {}) };
  toasts.set([...toasts.value.filter((each) => each.text !== text), toast].slice(-2));
  setTimeout(() => dismiss(toast.id), (seconds ?? SECONDS[kind]) * 1000);
  return toast.id;
}

/** Show why something failed. */
export function complain(error: unknown): void {
  noteFailure(error);
  tell(explain(error), { kind: "error" });
}

export function dismiss(id: number): void {
  toasts.set(toasts.value.filter((toast) => toast.id !== id));
}

export function announce(text: string): void {
  announcement.set(text);
}

/** Run it; a failure is shown. Whether it succeeded. */
export async function attempt(work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    complain(error);
    return false;
  }
}
