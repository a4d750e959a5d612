/** A page that has the packages, for tests to use. */

import Uppy, { type Meta } from "@uppy/core";
import GoldenRetriever from "@uppy/golden-retriever";
import { Client } from "@upwell/client";
import Upwell, { type UpwellBody } from "@upwell/uppy";

declare global {
  interface Window {
    client: Client;
    newUppy(id: string): Uppy<Meta, UpwellBody>;
    random(size: number, name: string): File;
    digestOf(file: File): Promise<string>;
    readme(): Promise<typeof import("./readme.js")>;
  }
}

window.client = new Client({ stall: 1500 });

window.newUppy = (id) =>
  new Uppy<Meta, UpwellBody>({ id })
    .use(GoldenRetriever)
    .use(Upwell, { chunkSize: 1 << 20, connections: 1, stall: 1500 });

/** The same for the same name and size. */
window.random = (size, name) => {
  const content = new Uint32Array(Math.ceil(size / 4));
  let seed = size;
  for (const char of name) seed = Math.imul(seed, 31) + char.charCodeAt(0);
  for (let at = 0; at < content.length; at += 1) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    content[at] = seed;
  }
  return new File([content.buffer.slice(0, size)], name, { lastModified: 1_700_000_000_000 });
};

window.digestOf = async (file) => {
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
};

window.readme = () => import("./readme.js");
