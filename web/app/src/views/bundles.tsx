import { useEffect, useState } from "preact/hooks";
import { type Bundle, client } from "../api.ts";
import { count, exactly, until } from "../format.ts";
import { bundles, loadBundles } from "../state/bundles.ts";
import { changed } from "../state/files.ts";
import { attempt, tell } from "../state/toasts.ts";
import { useStore } from "../store.ts";
import { Button } from "../ui/basics.tsx";
import { Dialog } from "../ui/dialog.tsx";
import { Icon } from "../ui/icons.tsx";
import { Menu } from "../ui/menu.tsx";
import { BundleForm } from "./bundle-form.tsx";
import { Address, copy } from "./share.tsx";

/** All bundles. */
export function Bundles() {
  const all = useStore(bundles);
  const [making, setMaking] = useState(false);
  useEffect(() => void loadBundles(), []);
  return (
    <section class="bundles" aria-labelledby="bundles-title">
      <div class="files-head">
        <h2 id="bundles-title">
          Bundles {all && <span class="count">{all.length.toLocaleString()}</span>}
        </h2>
        <Button kind="main" icon="plus" onClick={() => setMaking(true)}>
          New bundle
        </Button>
      </div>
      {all?.length === 0 && (
        <div class="card empty">
          <Icon name="bundle" />
          <p>No bundles yet.</p>
          <p class="hint">
            A bundle is a page with files that you share by one link, behind a passcode if you like.
          </p>
        </div>
      )}
      <ul class="bundle-grid" aria-label="Bundles">
        {all?.map((bundle) => (
          <BundleCard key={bundle.id} bundle={bundle} />
        ))}
      </ul>
      {making && <BundleForm bundle={null} onClose={() => setMaking(false)} />}
    </section>
  );
}

function BundleFacts({ bundle }: { bundle: Bundle }) {
  return (
    <p class="facts">
      <span>{count(bundle.files_count, "file")}</span>
      {bundle.has_passcode && <span class="tag">Passcode</span>}
      {bundle.expired_at && (
        <span class="tag" title={exactly(bundle.expired_at)}>
          Ends {until(bundle.expired_at)}
        </span>
      )}
    </p>
  );
}

function BundleCard({ bundle }: { bundle: Bundle }) {
  return (
    <li class="card bundle">
      <span class="thumb">
        <Icon name={bundle.has_passcode ? "lock" : "bundle"} />
      </span>
      <div class="bundle-text">
        <h3>
          <a href={`#/bundles/${bundle.id}`}>
            <bdi>{bundle.name}</bdi>
          </a>
        </h3>
        <BundleFacts bundle={bundle} />
      </div>
      <BundleMenu bundle={bundle} />
      <div class="bundle-foot">
        <Button icon="copy" onClick={() => void copy(bundle.url)} aria-label={copyLabel(bundle)}>
          Copy link
        </Button>
        <a class="button quiet" href={bundle.url} target="_blank" rel="noreferrer">
          <Icon name="open" />
          <span>
            Open page<span class="unseen"> of {bundle.name} in a new tab</span>
          </span>
        </a>
      </div>
    </li>
  );
}

function copyLabel(bundle: Bundle): string {
  return `Copy link of ${bundle.name}`;
}

function BundleMenu({ bundle, onGone }: { bundle: Bundle; onGone?: () => void }) {
  const [opened, open] = useState<"edit" | "delete" | null>(null);
  return (
    <>
      <Menu
        label={`More for ${bundle.name}`}
        items={[
          { icon: "edit", text: "Change", run: () => open("edit") },
          { icon: "trash", text: "Delete", run: () => open("delete"), danger: true },
        ]}
      />
      {opened === "edit" && <BundleForm bundle={bundle} onClose={() => open(null)} />}
      {opened === "delete" && (
        <DeleteDialog bundle={bundle} onClose={() => open(null)} onGone={onGone} />
      )}
    </>
  );
}

interface DeleteProps {
  bundle: Bundle;
  onClose: () => void;
  onGone?: (() => void) | undefined;
}

function DeleteDialog({ bundle, onClose, onGone }: DeleteProps) {
  const remove = async () => {
    const done = await attempt(() => client.bundles.delete(bundle.id));
    if (!done) return;
    onClose();
    tell(`Deleted the bundle “${bundle.name}”.`);
    changed();
    await loadBundles();
    onGone?.();
  };
  const what = bundle.files_count ? ` and ${count(bundle.files_count, "file")} in it` : "";
  return (
    <Dialog title="Delete this bundle?" onClose={onClose}>
      <p>
        “<bdi>{bundle.name}</bdi>”{what} will be deleted. Its link will lead nowhere. To keep files,
        take them out of the bundle first.
      </p>
      <div class="dialog-foot">
        <Button onClick={onClose}>Keep it</Button>
        <Button kind="danger" icon="trash" onClick={() => void remove()}>
          Delete
        </Button>
      </div>
    </Dialog>
  );
}

/** One bundle: what it is, and its address. */
export function BundleHead({ id }: { id: string }) {
  const all = useStore(bundles);
  useEffect(() => void loadBundles(), [id]);
  const bundle = all?.find((each) => each.id === id);
  if (all && !bundle) {
    return (
      <section class="card empty">
        <Icon name="bundle" />
        <p>This bundle is gone: it was deleted, or it ended.</p>
        <a class="button plain" href="#/bundles">
          All bundles
        </a>
      </section>
    );
  }
  return (
    <section class="card bundle-head" aria-label="Bundle">
      <div class="bundle-text">
        <a class="back" href="#/bundles">
          <Icon name="left" />
          Bundles
        </a>
        <h2>
          <bdi>{bundle?.name ?? "…"}</bdi>
        </h2>
        {bundle && <BundleFacts bundle={bundle} />}
        {bundle?.description && <p class="about">{bundle.description}</p>}
      </div>
      {bundle && <BundleMenu bundle={bundle} onGone={() => location.assign("#/bundles")} />}
      {bundle && <Address url={bundle.url} label="Link of the bundle" />}
    </section>
  );
}
