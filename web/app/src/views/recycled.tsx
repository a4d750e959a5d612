import { useEffect, useState } from "preact/hooks";
import { type CloudFile, client } from "../api.ts";
import { bytes, exactly, when } from "../format.ts";
import { changed, pools } from "../state/files.ts";
import { loadRecycled, recycled } from "../state/recycled.ts";
import { announce, attempt } from "../state/toasts.ts";
import { useStore } from "../store.ts";
import { Button, IconButton } from "../ui/basics.tsx";
import { Dialog } from "../ui/dialog.tsx";
import { Thumb } from "../ui/thumb.tsx";

/** The way to what was deleted, where something is kept. */
export function Recycled() {
  const total = useStore(recycled, (page) => page.total);
  const kept = useStore(pools, (all) => all.some((pool) => pool.enable_recycle));
  const [open, setOpen] = useState(false);
  if (!total && !kept && !open) return null;
  return (
    <div class="recycled">
      <Button kind="quiet" icon="trash" onClick={() => setOpen(true)}>
        Deleted files{total > 0 && ` (${total.toLocaleString()})`}
      </Button>
      {open && <RecycledDialog onClose={() => setOpen(false)} />}
    </div>
  );
}

function RecycledDialog({ onClose }: { onClose: () => void }) {
  const { items, total } = useStore(recycled);
  useEffect(() => void loadRecycled(true), []);
  return (
    <Dialog title="Deleted files" onClose={onClose}>
      <p class="hint">
        {total
          ? "They can be restored for a while, and take up space until they are gone for good."
          : "Nothing is here. What you delete can be restored from here for a while."}
      </p>
      {items.length > 0 && (
        <ul class="recycled-list" aria-label="Deleted files">
          {items.map((file) => (
            <Row key={file.id} file={file} />
          ))}
        </ul>
      )}
      {items.length < total && (
        <Button kind="quiet" onClick={() => void loadRecycled(true)}>
          Show more
        </Button>
      )}
    </Dialog>
  );
}

async function settle(work: () => Promise<unknown>, told: string): Promise<void> {
  if (await attempt(work)) announce(told);
  await loadRecycled();
  changed();
}

function Row({ file }: { file: CloudFile }) {
  const [asking, setAsking] = useState(false);
  const { id, name, size, deleted_at } = file;
  return (
    <li>
      <Thumb file={file} />
      <div class="row-text">
        <p class="name">
          <bdi>{name}</bdi>
        </p>
        <p class="facts">
          <span>{bytes(size)}</span>
          {deleted_at && (
            <time dateTime={deleted_at} title={exactly(deleted_at)}>
              {when(deleted_at)}
            </time>
          )}
        </p>
      </div>
      <div class="recycled-tools">
        {asking ? (
          <>
            <Button
              kind="danger"
              aria-label={`Delete for good: ${name}`}
              onClick={() => void settle(() => client.files.delete(id), `Deleted “${name}”.`)}
            >
              Delete for good
            </Button>
            <IconButton icon="close" label={`Keep ${name}`} onClick={() => setAsking(false)} />
          </>
        ) : (
          <>
            <Button
              kind="quiet"
              aria-label={`Restore ${name}`}
              onClick={() => void settle(() => client.files.restore(id), `Restored “${name}”.`)}
            >
              Restore
            </Button>
            <IconButton
              icon="trash"
              label={`Delete ${name} for good…`}
              onClick={() => setAsking(true)}
            />
          </>
        )}
      </div>
    </li>
  );
}
