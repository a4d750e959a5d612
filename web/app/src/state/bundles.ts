import type { Bundle } from "../api.ts";
import { client } from "../api.ts";
import { Store } from "../store.ts";
import { noteFailure } from "./session.ts";

/** The caller's bundles, newest first; `null` until they are known. */
export const bundles = new Store<readonly Bundle[] | null>(null);

const MOST = 100; // rows that one request may ask for

export async function loadBundles(): Promise<void> {
  try {
    const all: Bundle[] = [];
    let total = 0;
    do {
      const page = await client.bundles.list({ offset: all.length, take: MOST });
      total = page.total;
      if (!page.items.length) break;
      all.push(...page.items);
    } while (all.length < total);
    bundles.set(all);
  } catch (error) {
    noteFailure(error);
  }
}
