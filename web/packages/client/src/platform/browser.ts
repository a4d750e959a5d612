import { ConnectionFailed, FileUnreadable } from "../errors.ts";
import { fetchSending } from "../fetching.ts";
import { Hashers } from "../hashers.ts";
import type { Answer, Platform, Sending } from "./platform.ts";

const hashers = new Hashers();

export const platform: Platform = {
  // Browsers open six connections to a server that speaks HTTP/1.1; one stays free for lists,
  // pictures, and for completing uploads.
  maxConnections: 5,
  watches: () => typeof XMLHttpRequest !== "undefined",
  // A service worker has no XMLHttpRequest; nothing else tells how far a body is.
  send: (sending) =>
    typeof XMLHttpRequest === "undefined"
      ? fetchSending(globalThis.fetch, sending)
      : sendWatched(sending),
  sha256: (blob, hashing) => hashers.sha256(blob, hashing),
  async open(path) {
    throw new FileUnreadable(`A browser cannot open ${path}; pass a File or a Blob.`);
  },
  async target(path) {
    throw new FileUnreadable(
      `A browser cannot write to ${path}; open files.url(id), or read files.open(id).`,
    );
  },
  online,
};

function sendWatched({ method, url, headers, body, signal, onSent }: Sending): Promise<Answer> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onSent(event.loaded);
    request.onload = () => resolve(answerOf(request));
    request.onerror = () => reject(new ConnectionFailed("The server cannot be reached."));
    request.onabort = () => reject(signal.reason);
    request.onloadend = () => signal.removeEventListener("abort", abort);
    signal.addEventListener("abort", abort);
    request.send(body);
  });
}

function answerOf(request: XMLHttpRequest): Answer {
  return {
    status: request.status,
    text: request.responseText,
    header: (name) => request.getResponseHeader(name),
  };
}

function online(signal: AbortSignal): Promise<boolean> {
  if (globalThis.navigator?.onLine !== false) return Promise.resolve(false);
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const ended = new AbortController();
    const back = () => {
      ended.abort();
      resolve(true);
    };
    const stopped = () => {
      ended.abort();
      reject(signal.reason);
    };
    addEventListener("online", back, { signal: ended.signal });
    signal.addEventListener("abort", stopped, { signal: ended.signal });
  });
}
