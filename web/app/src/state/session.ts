import type { Account } from "../api.ts";
import { ApiError, ConnectionFailed, client } from "../api.ts";
import { Store } from "../store.ts";

export interface Session {
  /** `out`: nobody is logged in; `lost`: somebody was, when the page was opened. */
  status: "unknown" | "in" | "out" | "lost";
  account: Account | null;
}

export const session = new Store<Session>({ status: "unknown", account: null });
/** Whether the server can be reached, as far as is known. */
export const reachable = new Store(navigator.onLine);

const RETRY_SECONDS = 3;

/** Find out who is logged in; waits for the server when it cannot be reached. */
export async function openSession(): Promise<void> {
  for (;;) {
    try {
      session.set({ status: "in", account: await client.account() });
      reachable.set(true);
      return;
    } catch (error) {
      if (!(error instanceof ConnectionFailed)) {
        noteFailure(error);
        return;
      }
      reachable.set(false);
      await new Promise((resolve) => setTimeout(resolve, RETRY_SECONDS * 1000));
    }
  }
}

export async function logOut(): Promise<void> {
  await client.request("POST", "/logout");
  session.set({ status: "out", account: null });
}

/** What a failed request says about the session and the connection. */
export function noteFailure(error: unknown): void {
  if (error instanceof ApiError && error.status === 401) {
    const { status } = session.value;
    session.patch({ status: status === "in" || status === "lost" ? "lost" : "out" });
  }
  if (error instanceof ConnectionFailed) reachable.set(false);
}

/** An error in words for a person. */
export function explain(error: unknown): string {
  if (error instanceof ConnectionFailed) {
    return "The server does not answer. Check your connection; nothing you uploaded is lost.";
  }
  if (error instanceof ApiError && error.status === 401) {
    return "You are logged out. Open a new login link in this browser, then try again.";
  }
  return error instanceof Error ? error.message : String(error);
}

export function watchConnection(): void {
  addEventListener("offline", () => reachable.set(false));
  addEventListener("online", () => void openSession());
}
