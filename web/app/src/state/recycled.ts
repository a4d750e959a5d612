import { type CloudFile, client, type Page } from "../api.ts";
import { Store } from "../store.ts";
import { noteFailure } from "./session.ts";

/** What was deleted and can be restored, newest first, as far as it was asked for. */
export const recycled = new Store<Pick<Page<CloudFile>, "items" | "total">>({
  items: [],
  total: 0,
});

const ROWS = 50;

/** Ask for at least as many rows as are known. */
export async function loadRecycled(more = false): Promise<void> {
  try {
    const wanted = recycled.value.items.length + (more ? ROWS : 0);
    const items: CloudFile[] = [];
    let total = 0;
    do {
      const take = Math.max(1, Math.min(ROWS, wanted - items.length));
      const page = await client.files.recycled({ offset: items.length, take });
      total = page.total;
      items.push(...page.items);
      if (!page.items.length) break;
    } while (items.length < Math.min(wanted, total));
    recycled.set({ items, total });
  } catch (error) {
    noteFailure(error);
  }
}
