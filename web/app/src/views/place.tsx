import { useState } from "preact/hooks";
import { type CloudFile, client } from "../api.ts";
import { count } from "../format.ts";
import { bundles, loadBundles } from "../state/bundles.ts";
import { changed, selected } from "../state/files.ts";
import { attempt, tell } from "../state/toasts.ts";
import { useStore } from "../store.ts";
import { Button, Choice, Field } from "../ui/basics.tsx";
import { Dialog } from "../ui/dialog.tsx";

const NEW = "new";

/** Puts files into a bundle, perhaps a new one. */
export function PlaceDialog(props: { files: readonly CloudFile[]; onClose: () => void }) {
  const { files, onClose } = props;
  const known = useStore(bundles) ?? [];
  const [where, setWhere] = useState(known[0]?.id ?? NEW);
  const [name, setName] = useState("");
  const place = async () => {
    const failed: CloudFile[] = [];
    const begun = await attempt(async () => {
      const id = where === NEW ? (await client.bundles.create({ name: name.trim() })).id : where;
      for (const file of files) {
        if (!(await attempt(() => client.bundles.add(id, file.id)))) failed.push(file);
      }
    });
    changed();
    void loadBundles();
    if (!begun) return;
    const put = files.length - failed.length;
    if (!put) return;
    selected.set(new Set(failed.map(({ id }) => id)));
    tell(`${count(put, "file")} put into the bundle.`);
    onClose();
  };
  return (
    <Dialog title={`Put ${count(files.length, "file")} into a bundle`} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void place();
        }}
      >
        <p class="hint">
          A bundle shows its files on one page that you can share. A file is in one bundle at a
          time.
        </p>
        <Choice
          label="Bundle"
          value={where}
          options={[
            ...known.map((bundle) => [bundle.id, bundle.name] as const),
            [NEW, "A new bundle…"] as const,
          ]}
          onValue={setWhere}
        />
        {where === NEW && (
          <Field label="Name of the new bundle" required value={name} onValue={setName} />
        )}
        <div class="dialog-foot">
          <Button kind="main" type="submit" disabled={where === NEW && !name.trim()}>
            Put in
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
