/** An Upwell server, from a browser or from Node. */

import { platform } from "#platform";

import { UpwellError } from "./errors.ts";
import { type Asked, Http } from "./http.ts";
import type { Account, Quota, Usage } from "./model.ts";
import { Bundles, Files, Links, Pools } from "./resources.ts";
import { Connections, Slots } from "./slots.ts";
import { rememberedOf } from "./token.ts";
import { discardTask, type Shared, type Source, Upload, type UploadOptions } from "./upload.ts";

const HASHED_AT_ONCE = 4;
const SENT_AT_ONCE = 8;
const STALL = 30_000;

export interface ClientOptions {
  /** The server's address; the page's own origin when absent. */
  server?: string | undefined;
  /** A token of the account; the session of the browser when absent. */
  token?: string | undefined;
  /** Used for every request in place of the platform's own. */
  fetch?: typeof fetch | undefined;
  /** Connections for bodies; as many as it takes, when absent. */
  connections?: number | undefined;
  /** Files that are sent at once; 8 by default. */
  uploads?: number | undefined;
  /** Milliseconds without progress after which a body is sent again; 30 seconds by default. */
  stall?: number | undefined;
}

/** A server, as one account sees it. Its uploads share connections. */
export class Client {
  readonly files: Files;
  readonly bundles: Bundles;
  readonly links: Links;
  readonly pools: Pools;
  readonly #http: Http;
  readonly #shared: Shared;

  constructor(options: ClientOptions = {}) {
    const { token, connections } = options;
    this.#http = new Http(addressOf(options.server), token, options.fetch);
    this.#shared = {
      http: this.#http,
      connections: new Connections(
        connections ?? platform.maxConnections,
        connections !== undefined,
      ),
      hashing: new Slots(HASHED_AT_ONCE),
      sending: new Slots(options.uploads ?? SENT_AT_ONCE),
      stall: options.stall ?? STALL,
    };
    this.files = new Files(this.#http);
    this.bundles = new Bundles(this.#http);
    this.links = new Links(this.#http);
    this.pools = new Pools(this.#http);
  }

  /** Upload a file; begins at once. */
  upload(source: Source, options: UploadOptions = {}): Upload {
    return new Upload(this.#shared, source, options);
  }

  /** Free what the server received of an upload that nobody goes on with, by its token. */
  async discard(token: string): Promise<void> {
    const { task } = rememberedOf(token);
    if (task) await discardTask(this.#http, task);
  }

  /** What the caller holds, in bytes. */
  usage(): Promise<Usage> {
    return this.#http.request("GET", "/api/billing/usage");
  }

  /** What the caller may hold, in bytes. */
  quota(): Promise<Quota> {
    return this.#http.request("GET", "/api/billing/quota");
  }

  /** Who the caller is. */
  account(): Promise<Account> {
    return this.#http.request("GET", "/api/accounts/me");
  }

  /** Any other call of the API: the JSON of its answer. Rejects with an UpwellError. */
  request<T>(method: string, path: string, asked: Asked = {}): Promise<T> {
    return this.#http.request(method, path, asked);
  }
}

function addressOf(server = ""): string {
  if (server === "" && typeof location !== "undefined") return "";
  const url = URL.canParse(server) ? new URL(server) : null;
  if (url?.protocol === "http:" || url?.protocol === "https:") return server;
  const example = 'new Client({ server: "https://files.example.org" })';
  throw new UpwellError(`Give the address of the server, as in ${example}.`);
}
