/** Files, bundles, links and pools: one method a call. */

import { type DownloadOptions, download } from "./download.ts";
import type { Http } from "./http.ts";
import type { Bundle, CloudFile, Link, Page, Pool } from "./model.ts";

const MOST = 100; // rows that one request may ask for

/** Which rows of a list: `take` (at most 100) from `offset` on, or `after` a page's cursor. */
export interface Rows {
  offset?: number | undefined;
  take?: number | undefined;
  after?: string | undefined;
  signal?: AbortSignal | undefined;
}

export type FileOrder = "newest" | "oldest" | "name" | "-name" | "size" | "-size";

/** How a whole list is read: `take` rows at a time. */
export type Walk<R extends Rows> = Omit<R, "offset" | "after">;

export interface FileRows extends Rows {
  /** A part of the name. */
  search?: string | undefined;
  order?: FileOrder | undefined;
}

/** Which form of a file: its bytes, or an image of it. */
export interface FileForm {
  /** To be saved, not shown. */
  download?: boolean | undefined;
  thumbnail?: boolean | undefined;
  preview?: boolean | undefined;
  /** The encrypted file as it is stored, for its owner. */
  raw?: boolean | undefined;
}

export interface ReadOptions extends FileForm {
  /** Of an encrypted file. */
  password?: string | undefined;
  /** The first byte and, when given, the last one; `open` resolves to that part. */
  range?: readonly [number, number?] | undefined;
  signal?: AbortSignal | undefined;
}

export interface NewBundle {
  name: string;
  slug?: string | undefined;
  description?: string | undefined;
  passcode?: string | undefined;
  expiresAt?: Date | string | undefined;
  /** Seconds by the server's clock, instead of `expiresAt`. */
  expiresIn?: number | undefined;
}

/** What is to be different; `null` takes it away. */
export interface BundleChanges {
  name?: string | undefined;
  slug?: string | undefined;
  description?: string | null | undefined;
  passcode?: string | null | undefined;
  expiresAt?: Date | string | null | undefined;
  /** Seconds by the server's clock, instead of `expiresAt`. */
  expiresIn?: number | undefined;
}

/** How long a link lives (a week when nothing is said), and for how many downloads. */
export interface NewLink {
  expiresAt?: Date | string | undefined;
  /** Seconds by the server's clock, instead of `expiresAt`. */
  expiresIn?: number | undefined;
  maxDownloads?: number | undefined;
}

export class Files {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  list(rows: FileRows = {}): Promise<Page<CloudFile>> {
    return page(this.#http, "/api/files/me", rows);
  }

  /** All of them, page by page; each once, also while others come or go. */
  all(rows: Walk<FileRows> = {}): AsyncGenerator<CloudFile> {
    return every((row) => this.list({ take: MOST, ...rows, ...row }));
  }

  /** All that is in the recycle bin, page by page. */
  allRecycled(rows: Walk<Rows> = {}): AsyncGenerator<CloudFile> {
    return every((row) => this.recycled({ take: MOST, ...rows, ...row }));
  }

  /** What is in the recycle bin. */
  recycled(rows: Rows = {}): Promise<Page<CloudFile>> {
    return page(this.#http, "/api/files/recycle", rows);
  }

  info(id: string): Promise<CloudFile> {
    return this.#http.request("GET", `${pathOf(id)}/info`);
  }

  rename(id: string, name: string): Promise<CloudFile> {
    return this.#http.request("PATCH", `${pathOf(id)}/name`, { json: { name } });
  }

  setMeta(id: string, meta: Record<string, unknown>): Promise<CloudFile> {
    return this.#http.request("PUT", `${pathOf(id)}/meta`, { json: { user_meta: meta } });
  }

  setMarks(id: string, marks: string[]): Promise<CloudFile> {
    return this.#http.request("PUT", `${pathOf(id)}/marks`, { json: { sensitive_marks: marks } });
  }

  /** Into the recycle bin where the pool has one; for good when it is there already. */
  delete(id: string): Promise<void> {
    return this.#http.request("DELETE", pathOf(id));
  }

  /** The ids of those that were there to delete. */
  async deleteAll(ids: string[]): Promise<string[]> {
    const asked = { json: { file_ids: ids } };
    const path = "/api/files/batches/delete";
    return (await this.#http.request<{ deleted: string[] }>("POST", path, asked)).deleted;
  }

  /** Out of the recycle bin. */
  restore(id: string): Promise<CloudFile> {
    return this.#http.request("POST", `${pathOf(id)}/restore`);
  }

  /** Begin to move its bytes to another pool; it stays readable meanwhile. */
  move(id: string, poolId: string): Promise<unknown> {
    return this.#http.request("POST", `${pathOf(id)}/move`, { json: { pool_id: poolId } });
  }

  /** Where a browser that is logged in finds the file. */
  url(id: string, form: FileForm = {}): string {
    return this.#http.url(pathOf(id), queryOf(form));
  }

  /**
   * In Node: into a file at `path`, going on where an earlier run stopped, and verified. Rejects
   * with an UpwellError.
   */
  download(id: string, path: string, options: DownloadOptions = {}): Promise<CloudFile> {
    return download(this, id, path, options);
  }

  /** Its bytes as they come: read `body`, or `blob()`. Rejects with an UpwellError. */
  open(id: string, options: ReadOptions = {}): Promise<Response> {
    const { password, range, signal, ...form } = options;
    const headers = {
      ...(password !== undefined && { "X-Encrypt-Password-Base64": base64(password) }),
      ...(range && { Range: `bytes=${range[0]}-${range[1] ?? ""}` }),
    };
    return this.#http.open(pathOf(id), {
      query: queryOf(form),
      headers,
      ...(signal && { signal }),
    });
  }
}

export class Bundles {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  create(bundle: NewBundle): Promise<Bundle> {
    const { expiresAt, expiresIn, ...told } = bundle;
    const json = { ...told, expired_at: instant(expiresAt), expires_in: expiresIn };
    return this.#http.request("POST", "/api/bundles", { json });
  }

  list(rows: Rows = {}): Promise<Page<Bundle>> {
    return page(this.#http, "/api/bundles", rows);
  }

  /** All of them, page by page; each once, also while others come or go. */
  all(rows: Walk<Rows> = {}): AsyncGenerator<Bundle> {
    return every((row) => this.list({ take: MOST, ...rows, ...row }));
  }

  /** All files of a bundle, page by page. */
  allFiles(id: string, rows: Walk<Rows> = {}): AsyncGenerator<CloudFile> {
    return every((row) => this.files(id, { take: MOST, ...rows, ...row }));
  }

  info(id: string): Promise<Bundle> {
    return this.#http.request("GET", `/api/bundles/${encodeURIComponent(id)}`);
  }

  update(id: string, changes: BundleChanges): Promise<Bundle> {
    const { expiresAt, expiresIn, ...told } = changes;
    const fields = { ...told, expired_at: expiresAt === null ? null : instant(expiresAt) };
    const unset = Object.entries(fields).filter(([, value]) => value === null);
    const json = { ...fields, expires_in: expiresIn, unset: unset.map(([name]) => name) };
    return this.#http.request("PATCH", `/api/bundles/${encodeURIComponent(id)}`, { json });
  }

  /** Its files go to the recycle bin, or are deleted where their pool has none. */
  delete(id: string): Promise<void> {
    return this.#http.request("DELETE", `/api/bundles/${encodeURIComponent(id)}`);
  }

  files(id: string, rows: Rows = {}): Promise<Page<CloudFile>> {
    return page(this.#http, `/api/bundles/${encodeURIComponent(id)}/files`, rows);
  }

  /** Put a file in; it leaves the bundle where it was. */
  add(id: string, fileId: string): Promise<CloudFile> {
    return this.#http.request("PUT", `${pathOf(fileId)}/bundle`, { json: { bundle_id: id } });
  }

  /** Take a file out of its bundle; the file stays. */
  remove(fileId: string): Promise<CloudFile> {
    return this.#http.request("DELETE", `${pathOf(fileId)}/bundle`);
  }
}

export class Links {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  create(fileId: string, link: NewLink = {}): Promise<Link> {
    const json = {
      expires_at: instant(link.expiresAt),
      expires_in: link.expiresIn,
      max_downloads: link.maxDownloads,
    };
    return this.#http.request("POST", `${pathOf(fileId)}/links`, { json });
  }

  /** Those that work. */
  async list(fileId: string): Promise<Link[]> {
    const found: Link[] = [];
    const path = `${pathOf(fileId)}/links`;
    for await (const link of every<Link>((row) => page(this.#http, path, row))) found.push(link);
    return found;
  }

  revoke(id: string): Promise<void> {
    return this.#http.request("DELETE", `/api/files/links/${encodeURIComponent(id)}`);
  }
}

export class Pools {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  /** Those that the caller may use. */
  list(): Promise<Pool[]> {
    return this.#http.request("GET", "/api/pools");
  }
}

async function* every<T>(read: (row: Rows) => Promise<Page<T>>): AsyncGenerator<T> {
  let after: string | undefined;
  do {
    const found = await read({ ...(after && { after }) });
    yield* found.items;
    after = found.cursor ?? undefined;
  } while (after);
}

function page<T>(http: Http, path: string, rows: FileRows): Promise<Page<T>> {
  const { signal, ...query } = rows;
  return http.page(path, { query: { ...query }, ...(signal && { signal }) });
}

function pathOf(fileId: string): string {
  return `/api/files/${encodeURIComponent(fileId)}`;
}

function queryOf({ download, thumbnail, preview, raw }: FileForm) {
  return {
    download: download || null,
    thumbnail: thumbnail || null,
    preview: preview || null,
    raw: raw || null,
  };
}

function instant(when: Date | string | undefined): string | undefined {
  return when instanceof Date ? when.toISOString() : when;
}

/** UTF-8 in base64, for what a header cannot carry. */
function base64(text: string): string {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
