import {
  ApiError,
  type CloudFile,
  client,
  type FileOrder,
  type Page,
  type Pool,
  type Quota,
} from "../api.ts";
import { Store } from "../store.ts";
import { loadRecycled, recycled } from "./recycled.ts";
import { noteFailure } from "./session.ts";
import { attempt, complain, dismiss, tell } from "./toasts.ts";

/** Which files are listed. */
export interface Query {
  bundleId: string | null;
  search: string;
  order: FileOrder;
}

export interface Listing {
  items: readonly CloudFile[];
  /** Rows in all. */
  total: number;
  status: "loading" | "ready" | "failed";
}

export const query = new Store<Query>({ bundleId: null, search: "", order: "newest" });
export const listing = new Store<Listing>({ items: [], total: 0, status: "loading" });
export const selected = new Store<ReadonlySet<string>>(new Set());
/** Files whose deletion is held back so that it can be undone. */
export const leaving = new Store<ReadonlySet<string>>(new Set());
export const quota = new Store<Quota | null>(null);
export const pools = new Store<readonly Pool[]>([]);

const PAGE = 60;
const MOST = 100; // rows that one request may ask for
const UNDO_SECONDS = 8;

let turn = 0; // of the newest question; answers to older ones are dropped

function ask(offset: number, take: number): Promise<Page<CloudFile>> {
  const { bundleId, search, order } = query.value;
  if (bundleId) return client.bundles.files(bundleId, { offset, take });
  return client.files.list({ search, order, offset, take });
}

/** Ask anew for all rows that are shown. */
export async function refresh(): Promise<void> {
  turn += 1;
  const mine = turn;
  const wanted = Math.max(PAGE, listing.value.items.length);
  try {
    const items: CloudFile[] = [];
    let total = 0;
    do {
      const page = await ask(items.length, Math.min(MOST, wanted - items.length));
      if (mine !== turn) return;
      total = page.total;
      items.push(...page.items);
      if (!page.items.length) break;
    } while (items.length < Math.min(wanted, total));
    listing.set({ items, total, status: "ready" });
    forgetGone(items);
  } catch (error) {
    noteFailure(error);
    if (mine === turn) listing.patch({ status: "failed" });
  }
}

function forgetGone(items: readonly CloudFile[]): void {
  const here = new Set(items.map((file) => file.id));
  const kept = [...selected.value].filter((id) => here.has(id));
  if (kept.length !== selected.value.size) selected.set(new Set(kept));
}

/** List other files. */
export function look(fields: Partial<Query>): void {
  query.patch(fields);
  selected.set(new Set());
  if (fields.bundleId !== undefined) listing.set({ items: [], total: 0, status: "loading" });
  else listing.patch({ items: listing.value.items.slice(0, PAGE) });
  void refresh();
}

let loadingMore = false;

export async function loadMore(): Promise<void> {
  const { items, total, status } = listing.value;
  if (loadingMore || status !== "ready" || items.length >= total) return;
  loadingMore = true;
  const mine = turn;
  try {
    const page = await ask(items.length, PAGE);
    if (mine !== turn) return;
    const known = new Set(items.map((file) => file.id));
    const more = page.items.filter((file) => !known.has(file.id));
    listing.set({ items: [...items, ...more], total: page.total, status: "ready" });
  } catch (error) {
    complain(error);
  } finally {
    loadingMore = false;
  }
}

export async function refreshQuota(): Promise<void> {
  try {
    quota.set(await client.quota());
  } catch (error) {
    noteFailure(error);
  }
}

export async function loadPools(): Promise<void> {
  try {
    pools.set(await client.pools.list());
  } catch (error) {
    noteFailure(error);
  }
}

/** Put a file's new state into the list. */
export function replace(file: CloudFile): void {
  const items = listing.value.items.map((each) => (each.id === file.id ? file : each));
  listing.patch({ items });
}

export function rename(file: CloudFile, name: string): Promise<boolean> {
  replace({ ...file, name });
  return attempt(async () => {
    try {
      replace(await client.files.rename(file.id, name));
    } catch (error) {
      replace(file);
      throw error;
    }
  });
}

// deleting, and taking it back

function recycles(file: CloudFile): boolean {
  return pools.value.find((pool) => pool.id === file.pool_id)?.enable_recycle ?? false;
}

function hide(files: readonly CloudFile[]): void {
  leaving.set(new Set([...leaving.value, ...files.map((file) => file.id)]));
  const rest = [...selected.value].filter((id) => !leaving.value.has(id));
  selected.set(new Set(rest));
}

function show(files: readonly CloudFile[]): void {
  const back = new Set(files.map((file) => file.id));
  leaving.set(new Set([...leaving.value].filter((id) => !back.has(id))));
}

/** Delete files, with a way back: from the recycle bin, or by not having done it yet. */
export function remove(files: readonly CloudFile[]): void {
  hide(files);
  const what = files.length === 1 ? `“${files[0]?.name}”` : `${files.length} files`;
  const binned = files.filter(recycles);
  const held = files.filter((file) => !recycles(file));
  const moved = Promise.all(binned.map(recycle));
  const timer = setTimeout(() => void carryOut(held), UNDO_SECONDS * 1000);
  for (const file of held) pending.set(file.id, file);
  const toast = tell(`Deleted ${what}.`, {
    seconds: UNDO_SECONDS,
    action: {
      label: "Undo",
      run: () => {
        clearTimeout(timer);
        dismiss(toast);
        for (const file of held) pending.delete(file.id);
        void moved.then(() => Promise.all(binned.map(restore))).then(() => show(files));
      },
    },
  });
}

/** Those whose deletion waits for the end of the time to undo it. */
const pending = new Map<string, CloudFile>();

async function recycle(file: CloudFile): Promise<void> {
  if (!(await attempt(() => client.files.delete(file.id)))) show([file]);
  changed();
}

async function restore(file: CloudFile): Promise<void> {
  await attempt(() => client.files.restore(file.id));
  await refresh();
}

async function carryOut(files: readonly CloudFile[]): Promise<void> {
  for (const file of files) {
    pending.delete(file.id);
    const done = await attempt(() => deleteOnce(file.id));
    if (!done) show([file]);
  }
  changed();
}

async function deleteOnce(id: string): Promise<void> {
  try {
    await client.files.delete(id);
  } catch (error) {
    if (!(error instanceof ApiError && error.code === "FILE_NOT_FOUND")) throw error;
  }
}

// Nobody can undo anything any more once the page is gone.
addEventListener("pagehide", () => {
  for (const id of pending.keys()) {
    void fetch(client.files.url(id), { method: "DELETE", keepalive: true });
  }
  pending.clear();
});

// keeping up

const CALM_MILLISECONDS = 700;
let due: ReturnType<typeof setTimeout> | undefined;

/** Something happened to files: look again, soon and not too often. */
export function changed(): void {
  if (due !== undefined) return;
  due = setTimeout(() => {
    due = undefined;
    void refresh();
    void refreshQuota();
    if (pools.value.some((pool) => pool.enable_recycle) || recycled.value.total) {
      void loadRecycled();
    }
  }, CALM_MILLISECONDS);
}
