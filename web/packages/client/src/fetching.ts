/** Requests by `fetch`. */

import { ConnectionFailed } from "./errors.ts";
import type { Answer, Sending } from "./platform/platform.ts";

/** Send a body by `fetch`, which does not tell how far it is. */
export function fetchSending(fetcher: typeof fetch, sending: Sending): Promise<Answer> {
  const { method, url, headers, body, signal } = sending;
  return fetchAnswer(fetcher, url, { method, headers, body, signal });
}

/** A whole answer. Rejects with ConnectionFailed, or with the signal's reason. */
export async function fetchAnswer(
  fetcher: typeof fetch,
  url: string,
  init: RequestInit,
): Promise<Answer> {
  const response = await fetchResponse(fetcher, url, init);
  try {
    const text = await response.text();
    return { status: response.status, text, header: (name) => response.headers.get(name) };
  } catch (error) {
    throw failureOf(error, init.signal);
  }
}

/** An answer whose body is still to be read. Rejects as `fetchAnswer` does. */
export async function fetchResponse(
  fetcher: typeof fetch,
  url: string,
  init: RequestInit,
): Promise<Response> {
  try {
    return await fetcher(url, init);
  } catch (error) {
    throw failureOf(error, init.signal);
  }
}

/** What a failure of `fetch` means to the caller. */
export function failureOf(error: unknown, signal: AbortSignal | null | undefined): unknown {
  if (signal?.aborted) return signal.reason;
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : "";
  const why = cause ? ` (${cause})` : "";
  return new ConnectionFailed(`The server cannot be reached${why}.`, { cause: error });
}
