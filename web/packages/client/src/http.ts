/** Requests of the API, and what their answers mean. */

import { platform } from "#platform";

import { Deadline } from "./deadline.ts";
import { ApiError, type ConnectionFailed, UnexpectedAnswer } from "./errors.ts";
import { fetchAnswer, fetchResponse, fetchSending } from "./fetching.ts";
import type { Page } from "./model.ts";
import type { Answer, Sending } from "./platform/platform.ts";

/** Milliseconds in which an answer without a large body comes, or does not. */
const ANSWER_WITHIN = 120_000;

export type Query = Record<string, string | number | boolean | null | undefined>;

/** A request: `json` is sent as such; `undefined` fields of it and of `query` are left out. */
export interface Asked {
  query?: Query;
  json?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  /** Milliseconds in which the answer comes, or it fails; two minutes by default. */
  timeout?: number;
}

/** A body to be sent, without what every request carries. */
export type Body = Pick<Sending, "body" | "signal" | "onSent"> & { json?: never };

/** A server, and how requests reach it. */
export class Http {
  readonly server: string;
  readonly #token: string | undefined;
  readonly #fetch: typeof fetch | undefined;

  constructor(server: string, token?: string, fetcher?: typeof fetch) {
    this.server = server.replace(/\/+$/, "");
    this.#token = token;
    this.#fetch = fetcher;
  }

  /** Whether `send` tells how far this body is while it is on its way. */
  watches(body: Blob | FormData): boolean {
    return platform.watches(body) && !this.#fetch;
  }

  /** The whole address of a path of the API. */
  url(path: string, query: Query = {}): string {
    const given = Object.entries(query).filter(
      ([, value]) => value !== undefined && value !== null,
    );
    const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
    return this.server + path + (given.length ? `?${search}` : "");
  }

  /** The JSON of an answer; `undefined` when it has no body. Rejects with an UpwellError. */
  async request<T>(method: string, path: string, asked: Asked = {}): Promise<T> {
    return parsed<T>(await this.#ask(method, path, asked));
  }

  /** A page of a list. */
  async page<T>(path: string, asked: Asked = {}): Promise<Page<T>> {
    const answer = await this.#ask("GET", path, asked);
    const items = parsed<T[]>(answer);
    const total = Number(answer.header("X-Total") ?? items.length);
    return { items, total, cursor: answer.header("X-Next-Cursor") };
  }

  /** An answer whose body is the caller's to read. Rejects with an UpwellError. */
  async open(path: string, asked: Asked = {}): Promise<Response> {
    const response = await fetchResponse(this.#fetcher, this.url(path, asked.query), {
      headers: { ...this.#credentials(), ...asked.headers },
      ...(asked.signal && { signal: asked.signal }),
    });
    if (response.ok) return response;
    const text = await response.text();
    throw refusalOf({
      status: response.status,
      text,
      header: (name) => response.headers.get(name),
    });
  }

  /** Send a body; the JSON of the answer. Rejects with an UpwellError. */
  async send<T>(method: string, path: string, body: Body): Promise<T> {
    const sending = { method, url: this.url(path), headers: this.#credentials(), ...body };
    const answer = this.#fetch
      ? await fetchSending(this.#fetch, sending)
      : await platform.send(sending);
    return parsed<T>(answer);
  }

  async #ask(method: string, path: string, asked: Asked): Promise<Answer> {
    const json = asked.json === undefined ? {} : { "Content-Type": "application/json" };
    const deadline = new Deadline(asked.timeout ?? ANSWER_WITHIN, asked.signal);
    try {
      return await fetchAnswer(this.#fetcher, this.url(path, asked.query), {
        method,
        headers: { ...this.#credentials(), ...json, ...asked.headers },
        ...(asked.json !== undefined && { body: JSON.stringify(asked.json) }),
        signal: deadline.signal,
      });
    } finally {
      deadline.end();
    }
  }

  get #fetcher(): typeof fetch {
    return this.#fetch ?? globalThis.fetch;
  }

  #credentials(): Record<string, string> {
    return this.#token ? { Authorization: `Bearer ${this.#token}` } : {};
  }
}

function parsed<T>(answer: Answer): T {
  if (answer.status >= 400 || answer.status === 0) throw refusalOf(answer);
  if (answer.text === "") return undefined as T;
  try {
    return JSON.parse(answer.text) as T;
  } catch {
    throw unexpected(answer);
  }
}

function refusalOf(answer: Answer): ApiError | ConnectionFailed | UnexpectedAnswer {
  const told = objectOf(answer.text);
  if (typeof told?.["code"] === "string" && typeof told["message"] === "string") {
    return new ApiError({
      code: told["code"],
      message: told["message"],
      status: answer.status,
      meta: (told["meta"] ?? {}) as Record<string, unknown>,
      errors: (told["errors"] ?? {}) as Record<string, string[]>,
      traceId: typeof told["trace_id"] === "string" ? told["trace_id"] : null,
      retryAfter: retryAfter(answer),
    });
  }
  return unexpected(answer);
}

/** A gateway that has lost the server says so in its own words: that passes. */
function unexpected(answer: Answer): ApiError | UnexpectedAnswer {
  const message = `The server answers ${answer.status}, and not as Upwell does.`;
  if (![408, 429, 500, 502, 503, 504].includes(answer.status)) return new UnexpectedAnswer(message);
  return new ApiError({
    code: `HTTP_${answer.status}`,
    message,
    status: answer.status,
    meta: {},
    errors: {},
    traceId: null,
    retryAfter: retryAfter(answer),
  });
}

function objectOf(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" ? (value as Record<string, unknown> | null) : null;
  } catch {
    return null;
  }
}

function retryAfter(answer: Answer): number | null {
  const told = answer.header("Retry-After");
  return told !== null && /^\d+$/.test(told) ? Number(told) : null;
}
