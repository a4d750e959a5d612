import type { Bundle } from "../api.ts";
import { client } from "../api.ts";
import { Store } from "../store.ts";
import { noteFailure } from "./session.ts";

/** The caller's bundles, newest first; `null` until they are known. */
export const bundles = new Store<readonly Bundle[] | null>(null);

export async function loadBundles(): Promise<void> {
  try {
    const all: Bundle[] = [];
    for await (const bundle of client.bundles.all()) all.push(bundle);
    bundles.set(all);
  } catch (error) {
    noteFailure(error);
  }
}
