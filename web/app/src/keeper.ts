/**
 * The service worker: Golden Retriever's, which holds on to chosen files, by reference, while the
 * page reloads. It has no `fetch` listener: no request passes through it.
 */

import "@uppy/golden-retriever/lib/ServiceWorker.js";

interface Scope extends EventTarget {
  clients: { claim(): Promise<void> };
}

const scope = self as unknown as Scope;

// A page that was reloaded with Shift has no worker, until it asks for it.
scope.addEventListener("message", (event) => {
  (event as Event & { waitUntil(work: Promise<void>): void }).waitUntil(scope.clients.claim());
});
