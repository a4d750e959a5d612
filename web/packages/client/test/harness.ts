/** A real server, and a way to it that can be bad. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const UPWELL =
  process.env["UPWELL"] ?? fileURLToPath(new URL("../../../../.venv/bin/upwell", import.meta.url));
const START_WITHIN = 60_000;

/** `upwell serve` on a data folder of its own, with the address and a token of its owner. */
export class Server {
  readonly folder = mkdtempSync(join(tmpdir(), "upwell-web-"));
  url = "";
  token = "";
  loginUrl = "";
  #process: ChildProcess | null = null;

  static async start(): Promise<Server> {
    const server = new Server();
    await server.start();
    const scopes = ["files:read", "files:write", "admin"].flatMap((scope) => ["--scope", scope]);
    const args = ["token", "create", "--account", "owner", "--data", server.#data, ...scopes];
    server.token = execFileSync(UPWELL, args, { encoding: "utf8" }).trim();
    return server;
  }

  get #data(): string {
    return join(this.folder, "data");
  }

  /** Start, on the same port as before. */
  async start(): Promise<void> {
    const port = this.url ? new URL(this.url).port : "0";
    const child = spawn(UPWELL, ["serve", "--data", this.#data, "--port", port], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = child;
    let log = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (log += text));
    const until = Date.now() + START_WITHIN;
    while (!(await this.#serves(log))) {
      if (child.exitCode !== null || Date.now() > until) throw new Error(`no server:\n${log}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    this.loginUrl = /http:\S+\/login\S+/.exec(log)?.[0] ?? "";
  }

  async #serves(log: string): Promise<boolean> {
    this.url ||= / at (http:\S+)/.exec(log)?.[1] ?? "";
    if (!this.url) return false;
    const ready = await fetch(`${this.url}/health/ready`).catch(() => null);
    return ready?.ok ?? false;
  }

  /** kill -9. */
  async kill(): Promise<void> {
    if (!this.#process || this.#process.exitCode !== null) return;
    this.#process.kill("SIGKILL");
    await once(this.#process, "exit");
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
};
// That of the server's own page.
const POLICY =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; " +
  "img-src 'self' blob: data:; connect-src 'self'; worker-src 'self'";

/** What happens to a request on its way. */
export type Fault =
  | "cut" // the connection breaks within the body
  | "cut answer" // a part of the answer arrives, then the connection breaks
  | "lose answer" // the request arrives, its answer does not
  | "stall" // nothing moves any more
  | "refuse" // a gateway says that it has lost the server
  | "damage" // a byte of the body is another one
  | "swallow"; // a cache says yes, and nothing arrives

export interface Asked {
  method: string;
  path: string;
}

/** Stands between a client and the server, and does what `fault` says. */
export class Network {
  fault: (request: Asked) => Fault | null = () => null;
  readonly requests: Asked[] = [];
  /** How many of them had a fault. */
  faults = 0;
  /** A folder whose files are served beside the server, on the same origin. */
  pages: string | null = null;
  readonly #server: http.Server;
  readonly #agent = new http.Agent({ keepAlive: false });

  private constructor(upstream: string) {
    this.#server = http.createServer((request, response) => {
      this.#pass(upstream, request, response).catch(() => request.socket.destroy());
    });
  }

  static async start(upstream: string): Promise<Network> {
    const network = new Network(upstream);
    network.#server.listen(0, "127.0.0.1");
    await once(network.#server, "listening");
    return network;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** How often a request was made whose path has this in it. */
  count(part: string, method?: string): number {
    const fits = (each: Asked) =>
      each.path.includes(part) && (method ?? each.method) === each.method;
    return this.requests.filter(fits).length;
  }

  reset(): void {
    this.fault = () => null;
    this.requests.length = 0;
    this.faults = 0;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #pass(
    upstream: string,
    from: http.IncomingMessage,
    to: http.ServerResponse,
  ): Promise<void> {
    const asked = { method: from.method ?? "", path: from.url ?? "" };
    const page = this.pages && join(this.pages, new URL(asked.path, this.url).pathname);
    if (page && extname(page) && existsSync(page)) {
      const type = TYPES[extname(page)] ?? "application/octet-stream";
      to.writeHead(200, { "Content-Type": type, "Content-Security-Policy": POLICY });
      to.end(readFileSync(page));
      return;
    }
    this.requests.push(asked);
    const fault = this.fault(asked);
    if (fault) this.faults += 1;
    if (fault === "cut") {
      await once(from, "data");
      from.socket.destroy();
      return;
    }
    const parts: Buffer[] = [];
    for await (const part of from) parts.push(part);
    const body = Buffer.concat(parts);
    if (fault === "stall") return;
    if (fault === "refuse") {
      to.writeHead(503, { "Content-Type": "text/html" }).end("<h1>Service Unavailable</h1>");
      return;
    }
    if (fault === "swallow") {
      to.writeHead(200).end();
      return;
    }
    if (fault === "damage") body[body.length >> 1] = (body[body.length >> 1] ?? 0) ^ 1;
    const answer = await this.#ask(upstream, asked, from.headers, body);
    if (fault === "lose answer") {
      from.socket.destroy();
      return;
    }
    to.writeHead(answer.status, answer.headers);
    if (fault !== "cut answer") {
      to.end(answer.body);
      return;
    }
    to.write(answer.body.subarray(0, answer.body.length >> 1));
    setTimeout(() => from.socket.destroy(), 100);
  }

  async #ask(upstream: string, asked: Asked, headers: http.IncomingHttpHeaders, body: Buffer) {
    const options = { method: asked.method, headers, agent: this.#agent };
    const request = http.request(upstream + asked.path, options).end(body);
    const [answer] = (await once(request, "response")) as [http.IncomingMessage];
    const parts: Buffer[] = [];
    for await (const part of answer) parts.push(part);
    return {
      status: answer.statusCode ?? 502,
      headers: answer.headers,
      body: Buffer.concat(parts),
    };
  }
}

/** A fault for the first `times` requests whose path has `part` in it. */
export function first(fault: Fault, part: string, times = 1): (request: Asked) => Fault | null {
  let left = times;
  return ({ path }) => (path.includes(part) && left-- > 0 ? fault : null);
}

export function random(size: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(randomBytes(size));
}
