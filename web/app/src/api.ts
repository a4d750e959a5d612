import type {
  Account, Bundle, CloudFile, Link, Page, Pool, Quota, Task,
} from "./model.ts";

export class ApiError extends Error {
  constructor(readonly code: string, message: string, readonly status: number) { super(message); }
}
export class ConnectionFailed extends Error {}

async function send(method: string, path: string, body?: unknown, keepalive = false): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, {
      method, keepalive,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }),
    });
  } catch { throw new ConnectionFailed("The server does not answer."); }
  if (answer.ok) return answer;
  const e = await answer.json().catch(() => null);
  throw new ApiError(e?.code ?? "UNKNOWN", e?.message ?? answer.statusText, answer.status);
}
const json = async <T>(r: Promise<Response>): Promise<T> => (await r).json() as Promise<T>;
async function paged<T>(path: string, query: Record<string, unknown>): Promise<Page<T>> {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v !== undefined && v !== "") q.set(k, String(v));
  const r = await send("GET", `${path}?${q}`);
  return { items: await r.json() as T[], total: Number(r.headers.get("X-Total")) };
}
interface Span { offset?: number; take?: number }
export const client = {
  account: () => json<Account>(send("GET", "/api/accounts/me")),
  quota: () => json<Quota>(send("GET", "/api/billing/quota")),
  pools: { list: () => json<Pool[]>(send("GET", "/api/pools")) },
  files: {
    list: (o: Span & { search?: string; order?: string }) => paged<CloudFile>("/api/files/me", { ...o }),
    rename: (id: string, name: string) => json<CloudFile>(send("PATCH", `/api/files/${id}/name`, { name })),
    delete: async (id: string) => { await send("DELETE", `/api/files/${id}`); },
    restore: (id: string) => json<CloudFile>(send("POST", `/api/files/${id}/restore`)),
    url: (id: string, o: { download?: boolean; thumbnail?: boolean; preview?: boolean } = {}) =>
      `/api/files/${id}${o.download ? "?download=true" : o.thumbnail ? "?thumbnail=true" : o.preview ? "?preview=true" : ""}`,
  },
  bundles: {
    list: (o: Span) => paged<Bundle>("/api/bundles", { ...o }),
    create: (b: unknown) => json<Bundle>(send("POST", "/api/bundles", b)),
    update: (id: string, b: unknown) => json<Bundle>(send("PATCH", `/api/bundles/${id}`, b)),
    delete: async (id: string) => { await send("DELETE", `/api/bundles/${id}`); },
    files: (id: string, o: Span) => paged<CloudFile>(`/api/bundles/${id}/files`, { ...o }),
    add: (fileId: string, bundle: string) => send("PUT", `/api/files/${fileId}/bundle`, { bundle_id: bundle }),
    remove: (fileId: string) => send("DELETE", `/api/files/${fileId}/bundle`),
  },
  links: {
    list: (id: string) => paged<Link>(`/api/files/${id}/links`, {}),
    create: (id: string, o: unknown) => json<Link>(send("POST", `/api/files/${id}/links`, o)),
    revoke: (id: string) => send("DELETE", `/api/files/links/${id}`),
  },
  tasks: {
    list: (o: Span & { status?: string }) => paged<Task>("/api/files/upload/tasks", { ...o }),
    cancel: (id: string) => send("DELETE", `/api/files/upload/${id}`),
  },
  logout: () => send("POST", "/logout"),
};
