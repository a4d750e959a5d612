import { useEffect, useRef, useState } from "preact/hooks";
import type { CloudFile, FileOrder } from "../api.ts";
import { count } from "../format.ts";
import {
  leaving,
  listing,
  loadMore,
  look,
  query,
  refresh,
  remove,
  selected,
} from "../state/files.ts";
import { useStore } from "../store.ts";
import { Button, Choice, IconButton } from "../ui/basics.tsx";
import { Icon } from "../ui/icons.tsx";
import { FileRow, type Open, type Opened } from "./file-row.tsx";
import { PasswordDialog } from "./password.tsx";
import { PlaceDialog } from "./place.tsx";
import { Preview } from "./preview.tsx";
import { Recycled } from "./recycled.tsx";
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
const MOST_LETTERS = 255; // that the server looks for

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
            <FileRow key={file.id} file={file} open={open} />
          ))}
        </ul>
      )}
      <More left={total - items.length} />
      {status === "ready" && !bundleId && <Recycled />}
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
          maxLength={MOST_LETTERS}
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
