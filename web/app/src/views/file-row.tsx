import { useEffect, useRef, useState } from "preact/hooks";
import { type CloudFile, client } from "../api.ts";
import { bytes, clock, exactly, until, when } from "../format.ts";
import { bundles, loadBundles } from "../state/bundles.ts";
import { changed, query, remove, rename, selected } from "../state/files.ts";
import { attempt, tell } from "../state/toasts.ts";
import { useStore } from "../store.ts";
import { IconButton } from "../ui/basics.tsx";
import { Icon } from "../ui/icons.tsx";
import { Menu, type MenuItem } from "../ui/menu.tsx";
import { Thumb } from "../ui/thumb.tsx";
import { isShown } from "./preview.tsx";

const MOST_LETTERS = 1024; // in a name, for the server

/** The dialog that a row asks for. */
export type Opened =
  | { what: "preview" | "links" | "password"; file: CloudFile }
  | { what: "place"; files: readonly CloudFile[] };
export type Open = (opened: Opened) => void;

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

/** A file in the list. */
export function FileRow({ file, open }: RowProps) {
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

/** Not `maxLength`, which takes an emoji for two characters, where the server counts one. */
function objectionTo(name: string): string {
  return [...name.trim()].length > MOST_LETTERS
    ? `At most ${MOST_LETTERS.toLocaleString()} characters.`
    : "";
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
        aria-label={`New name of ${file.name}`}
        onInput={({ currentTarget }) => {
          setName(currentTarget.value);
          currentTarget.setCustomValidity(objectionTo(currentTarget.value));
        }}
        onKeyDown={(event) => event.key === "Escape" && onDone()}
      />
      <IconButton icon="check" label="Save the name" type="submit" />
      <IconButton icon="close" label="Keep the old name" onClick={onDone} />
    </form>
  );
}
