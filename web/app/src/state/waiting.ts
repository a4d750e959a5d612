import type { Task } from "../api.ts";
import { client } from "../api.ts";
import { Store } from "../store.ts";
import { noteFailure } from "./session.ts";

const KEY = "upwell:forgotten";

/** An upload that is not finished and has no file on this page: it needs it once more. */
export interface Waiting {
  name: string;
  size: number;
  /** What the server knows of it; `null` when its turn had not come. */
  task: Task | null;
}

/** Unfinished uploads by the server's account. */
export const tasks = new Store<readonly Task[]>([]);
/** Files that a former visit chose, and whose turn had not come. */
export const forgotten = new Store<readonly { name: string; size: number }[]>(remembered());

const MOST = 100; // rows that one request may ask for

function remembered(): { name: string; size: number }[] {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

forgotten.subscribe(() => localStorage.setItem(KEY, JSON.stringify(forgotten.value)));

export async function loadTasks(): Promise<void> {
  try {
    const query = { status: "in_progress", take: MOST };
    tasks.set(await client.request<Task[]>("GET", "/api/files/upload/tasks", { query }));
  } catch (error) {
    noteFailure(error);
  }
}

/** The files that are missing, given those that are being sent from here. */
export function missing(
  known: readonly Task[],
  lost: readonly { name: string; size: number }[],
  here: readonly { name: string; size: number }[],
): Waiting[] {
  const left = new Map<string, number>();
  for (const each of here) left.set(key(each), (left.get(key(each)) ?? 0) + 1);
  const without = known.filter((task) => {
    const id = key({ name: task.file_name, size: task.file_size });
    const others = left.get(id) ?? 0;
    left.set(id, others - 1);
    return others <= 0;
  });
  const names = new Set([
    ...known.map((task) => key({ name: task.file_name, size: task.file_size })),
    ...here.map(key),
  ]);
  return [
    ...without.map((task) => ({ name: task.file_name, size: task.file_size, task })),
    ...lost.filter((each) => !names.has(key(each))).map((each) => ({ ...each, task: null })),
  ];
}

/** What files are told apart by, of which nothing but this is known. */
export function key({ name, size }: { name: string; size: number }): string {
  return `${size}/${name}`;
}

export function forget({ name, size }: { name: string; size: number }): void {
  forgotten.set(forgotten.value.filter((each) => each.name !== name || each.size !== size));
}
