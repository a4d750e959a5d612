import { useEffect, useRef, useState } from "preact/hooks";
import { type CloudFile, client, type FileOrder } from "../api.ts";
import { bytes, clock, count, exactly, until, when } from "../format.ts";
import { bundles, loadBundles } from "../state/bundles.ts";
import {
  changed,
  leaving,
  listing,
  loadMore,
  look,
  query,
  refresh,
  remove,
  rename,
  selected,
} from "../state/files.ts";
import { attempt, tell } from "../state/toasts.ts";
import { useStore } from "../store.ts";
import { Button, Choice, IconButton } from "../ui/basics.tsx";
import { Icon } from "../ui/icons.tsx";
import { Menu, type MenuItem } from "../ui/menu.tsx";
import { Thumb } from "../ui/thumb.tsx";
import { PasswordDialog } from "./password.tsx";
import { PlaceDialog } from "./place.tsx";
import { isShown, Preview } from "./preview.tsx";
import { LinksDialog } from "./share.tsx";

const ORDERS: readonly (readonly [FileOrder, string])[] = [
  ["newest", "Newest first"],
  ["oldest", "Oldest first"],
  ["name", "Name, A to Z"],
  ["-name", "Name, Z to A"],
  ["-size", "Largest first"],
  ["size", "Smallest first"],
];
const TYPING_MILLISECONDS = 250;

type Opened =
  | { what: "preview" | "links" | "password"; file: CloudFile }
  | { what: "place"; files: readonly CloudFile[] };
type Open = (opened: Opened) => void;

/** The files, and what can be done with them. */
export function Files({ title }: { title: string }) {
  const { items, total, status } = useStore(listing);
  const gone = useStore(leaving);
  const { bundleId, search } = useStore(query);
  const [opened, open] = useState<Opened | null>(null);
  const shown = items.filter((file) => !gone.has(file.id));
  const number = total - (items.length - shown.length);
  return (
    <section class="files" aria-labelledby="files-title">
      <div class="files-head">
        <h2 id="files-title">
          <bdi>{title}</bdi> <span class="count">{number.toLocaleString()}</span>
        </h2>
        {!bundleId && <Tools />}
      </div>
      <SelectionBar files={shown} onPlace={(files) => open({ what: "place", files })} />
      {status === "failed" && !shown.length && <Failed />}
      {status === "loading" && !shown.length && <Skeleton />}
      {status === "ready" && !shown.length && <Empty searched={search} inBundle={!!bundleId} />}
      {shown.length > 0 && (
        <ul class="card list" aria-label="Files">
          {shown.map((file) => (
            <Row key={file.id} file={file} open={open} />
          ))}
        </ul>
      )}
      <More left={total - items.length} />
      <OpenedDialog opened={opened} files={shown} open={open} close={() => open(null)} />
    </section>
  );
}

interface OpenedProps {
  opened: Opened | null;
  files: readonly CloudFile[];
  open: Open;
  close: () => void;
}

function OpenedDialog({ opened, files, open, close }: OpenedProps) {
  switch (opened?.what) {
    case "preview": {
      const onFile = (file: CloudFile) => open({ what: "preview", file });
      return <Preview file={opened.file} files={files} onFile={onFile} onClose={close} />;
    }
    case "links":
      return <LinksDialog file={opened.file} onClose={close} />;
    case "password":
      return <PasswordDialog file={opened.file} onClose={close} />;
    case "place":
      return <PlaceDialog files={opened.files} onClose={close} />;
    default:
      return null;
  }
}

function Tools() {
  const { search, order } = useStore(query);
  const [text, setText] = useState(search);
  useEffect(() => {
    if (text === query.value.search) return;
    const timer = setTimeout(() => look({ search: text }), TYPING_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <div class="tools">
      <label class="search">
        <Icon name="search" />
        <span class="unseen">Search files</span>
        <input
          type="search"
          placeholder="Search"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      <Choice
        label="Sort"
        compact
        value={order}
        options={ORDERS}
        onValue={(value) => look({ order: value })}
      />
    </div>
  );
}

interface SelectionProps {
  files: readonly CloudFile[];
  onPlace: (files: readonly CloudFile[]) => void;
}

function SelectionBar({ files, onPlace }: SelectionProps) {
  const chosen = useStore(selected);
  if (!chosen.size) return null;
  const those = files.filter((file) => chosen.has(file.id));
  const all = those.length === files.length;
  return (
    <div class="selection" role="toolbar" aria-label="Selected files">
      <strong>{count(those.length, "file")} selected</strong>
      <Button
        kind="quiet"
        onClick={() => selected.set(new Set(all ? [] : files.map((file) => file.id)))}
      >
        {all ? "Select none" : "Select all"}
      </Button>
      <Button kind="quiet" icon="bundle" onClick={() => onPlace(those)}>
        To a bundle
      </Button>
      <Button kind="danger" icon="trash" onClick={() => remove(those)}>
        Delete
      </Button>
      <IconButton icon="close" label="End selection" onClick={() => selected.set(new Set())} />
    </div>
  );
}

interface RowProps {
  file: CloudFile;
  open: Open;
}

function select(file: CloudFile, on: boolean): void {
  const ids = new Set(selected.value);
  if (on) ids.add(file.id);
  else ids.delete(file.id);
  selected.set(ids);
}

function Row({ file, open }: RowProps) {
  const [renaming, setRenaming] = useState(false);
  const chosen = useStore(selected, (ids) => ids.has(file.id));
  return (
    <li class={chosen ? "row chosen" : "row"}>
      <label class="pick">
        <input
          type="checkbox"
          checked={chosen}
          aria-label={`Select ${file.name}`}
          onChange={(event) => select(file, event.currentTarget.checked)}
        />
      </label>
      <Thumb file={file} />
      <div class="row-text">
        {renaming ? (
          <Rename file={file} onDone={() => setRenaming(false)} />
        ) : (
          <Name file={file} open={open} />
        )}
        <p class="facts">
          <Facts file={file} />
        </p>
      </div>
      <div class="row-tools">
        <Download file={file} open={open} />
        <Menu
          label={`More for ${file.name}`}
          items={actions(file, open, () => setRenaming(true))}
        />
      </div>
    </li>
  );
}

function Name({ file, open }: RowProps) {
  const text = <bdi>{file.name}</bdi>;
  const what = isShown(file) ? "preview" : "password";
  if (what === "preview" || file.is_encrypted) {
    return (
      <button type="button" class="name" onClick={() => open({ what, file })}>
        {text}
      </button>
    );
  }
  return (
    <a class="name" href={client.files.url(file.id, { download: true })} download>
      {text}
    </a>
  );
}

function Download({ file, open }: RowProps) {
  const label = `Download ${file.name}`;
  if (file.is_encrypted) {
    return (
      <IconButton icon="download" label={label} onClick={() => open({ what: "password", file })} />
    );
  }
  return (
    <a
      class="icon-button"
      href={client.files.url(file.id, { download: true })}
      download
      aria-label={label}
      title={label}
    >
      <Icon name="download" />
    </a>
  );
}

function Facts({ file }: { file: CloudFile }) {
  const bundle = useStore(bundles, (all) => all?.find((each) => each.id === file.bundle_id));
  const { bundleId } = useStore(query);
  const duration = file.file_meta["duration"];
  return (
    <>
      <span>{bytes(file.size)}</span>
      {typeof duration === "number" && <span>{clock(duration)}</span>}
      <time dateTime={file.uploaded_at} title={exactly(file.uploaded_at)}>
        {when(file.uploaded_at)}
      </time>
      {file.is_encrypted && <span class="tag">Encrypted</span>}
      {bundle && !bundleId && (
        <a class="tag" href={`#/bundles/${bundle.id}`}>
          <bdi>{bundle.name}</bdi>
        </a>
      )}
      {file.expired_at && (
        <span class="tag" title={exactly(file.expired_at)}>
          Gone {until(file.expired_at)}
        </span>
      )}
    </>
  );
}

function actions(file: CloudFile, open: Open, onRename: () => void): MenuItem[] {
  const place = file.bundle_id ? "Move to another bundle" : "Put into a bundle";
  const all: (MenuItem | null)[] = [
    { icon: "download", text: "Download", run: () => download(file, open) },
    { icon: "edit", text: "Rename", run: onRename },
    { icon: "link", text: "Share by link", run: () => open({ what: "links", file }) },
    { icon: "bundle", text: place, run: () => open({ what: "place", files: [file] }) },
    file.bundle_id
      ? { icon: "close", text: "Take out of the bundle", run: () => takeOut(file) }
      : null,
    { icon: "trash", text: "Delete", run: () => remove([file]), danger: true },
  ];
  return all.filter((item) => item !== null);
}

function download(file: CloudFile, open: Open): void {
  if (file.is_encrypted) open({ what: "password", file });
  else location.assign(client.files.url(file.id, { download: true }));
}

function takeOut(file: CloudFile): void {
  void attempt(async () => {
    await client.bundles.remove(file.id);
    tell(`“${file.name}” is no longer in the bundle.`);
    changed();
    await loadBundles();
  });
}

function Rename({ file, onDone }: { file: CloudFile; onDone: () => void }) {
  const input = useRef<HTMLInputElement>(null);
  const [name, setName] = useState(file.name);
  useEffect(() => {
    const stem = file.name.lastIndexOf(".");
    input.current?.focus();
    input.current?.setSelectionRange(0, stem > 0 ? stem : file.name.length);
  }, []);
  const save = () => {
    onDone();
    const wanted = name.trim();
    if (wanted && wanted !== file.name) void rename(file, wanted);
  };
  return (
    <form
      class="rename"
      onSubmit={(event) => {
        event.preventDefault();
        save();
      }}
    >
      <input
        ref={input}
        value={name}
        maxLength={1024}
        aria-label={`New name of ${file.name}`}
        onInput={(event) => setName(event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Escape" && onDone()}
      />
      <IconButton icon="check" label="Save the name" type="submit" />
      <IconButton icon="close" label="Keep the old name" onClick={onDone} />
    </form>
  );
}

/** Asks for the next rows when one comes near their end. */
function More({ left }: { left: number }) {
  const end = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const target = end.current;
    if (!target || left <= 0) return;
    const watch = new IntersectionObserver(
      (entries) => entries.some((entry) => entry.isIntersecting) && void loadMore(),
      { rootMargin: "600px" },
    );
    watch.observe(target);
    return () => watch.disconnect();
  }, [left]);
  if (left <= 0) return null;
  return (
    <div class="more-rows" ref={end}>
      <Button kind="quiet" onClick={() => void loadMore()}>
        Show more
      </Button>
    </div>
  );
}

function Skeleton() {
  return (
    <div class="card list" role="status" aria-label="Loading">
      {[1, 2, 3].map((each) => (
        <div key={each} class="row skeleton">
          <span class="thumb" />
          <div class="row-text">
            <span class="bone" />
            <span class="bone short" />
          </div>
        </div>
      ))}
    </div>
  );
}

function Failed() {
  return (
    <div class="card empty">
      <Icon name="warning" />
      <p>The list could not be loaded.</p>
      <Button icon="retry" onClick={() => void refresh()}>
        Try again
      </Button>
    </div>
  );
}

function Empty({ searched, inBundle }: { searched: string; inBundle: boolean }) {
  if (searched) {
    return (
      <div class="card empty">
        <Icon name="search" />
        <p>No file has “{searched}” in its name.</p>
      </div>
    );
  }
  return (
    <div class="card empty">
      <Icon name={inBundle ? "bundle" : "file"} />
      <p>{inBundle ? "Nothing is in this bundle yet." : "No files yet."}</p>
      <p class="hint">Drop some above: photos, videos, whole folders, of any size.</p>
    </div>
  );
}
