import Dashboard from "@uppy/dashboard";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Bundle } from "../api.ts";
import { type Dropped, dropped } from "../drops.ts";
import { count } from "../format.ts";
import { bundles } from "../state/bundles.ts";
import { pools } from "../state/files.ts";
import { objection, options } from "../state/options.ts";
import { route } from "../state/route.ts";
import { complain, tell } from "../state/toasts.ts";
import { type Body, type Meta, uppy } from "../state/uploads.ts";
import { useStore } from "../store.ts";
import { Choice, Field, Switch } from "../ui/basics.tsx";
import { Icon } from "../ui/icons.tsx";
import { Transfers } from "./transfers.tsx";
import { WaitingList } from "./waiting.tsx";

export { ready } from "../state/uploads.ts";

const NAMED = 3; // items that could not be read which a message names
const DAY = 24 * 3600; // seconds
const LIVES: readonly (readonly [string, string])[] = [
  ["", "For ever"],
  [String(DAY), "For 1 day"],
  [String(7 * DAY), "For 7 days"],
  [String(30 * DAY), "For 30 days"],
];

const STRINGS = {
  dropPasteBoth: "Drop files or whole folders here\n%{browseFiles}%{browseFolders}",
  browseFiles: "Choose files",
  browseFolders: "Choose a folder",
  dropHint: "Let go to upload",
  dashboardTitle: "Drop area",
};

/** Where files come in: the drop area, what is to become of them, and those on their way. */
export default function Upload() {
  return (
    <section class="upload" aria-label="Upload">
      <div class="card drop-card">
        <DropArea />
        <UploadOptions />
      </div>
      <WaitingList />
      <Transfers />
      <PageDrop />
    </section>
  );
}

function dashboard(): Dashboard<Meta, Body> | undefined {
  return uppy.getPlugin("Dashboard") as Dashboard<Meta, Body> | undefined;
}

function DropArea() {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const target = place.current;
    if (!target) return;
    uppy.use(Dashboard, {
      target,
      inline: true,
      width: "100%",
      height: "auto",
      showSelectedFiles: false,
      disableStatusBar: true,
      disableInformer: true,
      fileManagerSelectionType: "both",
      proudlyDisplayPoweredByUppy: false,
      locale: { strings: STRINGS },
    });
    // A label needs a role, which the Dashboard gives itself only as a dialog.
    target.querySelector(".uppy-Dashboard")?.setAttribute("role", "group");
    return () => {
      const plugin = dashboard();
      if (plugin) uppy.removePlugin(plugin);
    };
  }, []);
  return (
    <div class="drop-area">
      <span class="drop-icon">
        <Icon name="upload" />
      </span>
      <div class="drop-place" ref={place} />
    </div>
  );
}

/**
 * Takes what is dropped, also beside the drop area, where the browser would open it. Before the
 * Dashboard does: for that, one file that cannot be read ends a whole folder.
 */
function PageDrop() {
  const [over, setOver] = useState(false);
  useEffect(() => {
    let gone: ReturnType<typeof setTimeout> | undefined;
    const onOver = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      setOver(true);
      clearTimeout(gone);
      gone = setTimeout(() => setOver(false), 200); // it comes all the time while one hovers
    };
    const onDrop = (event: DragEvent) => {
      setOver(false);
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.stopPropagation();
      dashboard()?.setPluginState({ isDraggingOver: false });
      dropped(event.dataTransfer).then(take).catch(complain);
    };
    addEventListener("dragover", onOver);
    addEventListener("drop", onDrop, { capture: true });
    return () => {
      removeEventListener("dragover", onOver);
      removeEventListener("drop", onDrop, { capture: true });
    };
  }, []);
  return over ? (
    <div class="page-drop" aria-hidden="true">
      <Icon name="upload" />
      Let go to upload
    </div>
  ) : null;
}

function take({ files, unreadable }: Dropped): void {
  if (files.length) dashboard()?.addFiles(files);
  if (!unreadable.length) return;
  const names = unreadable.slice(0, NAMED).join(", ") + (unreadable.length > NAMED ? ", …" : "");
  const verb = unreadable.length === 1 ? "was" : "were";
  const text = `${count(unreadable.length, "item")} could not be read and ${verb} left out: ${names}`;
  tell(text, { kind: "error" });
}

function UploadOptions() {
  const chosen = useStore(options);
  const known = useStore(bundles);
  const where = useStore(route);
  const allowed = useStore(pools, (all) => all.find((pool) => pool.is_default)?.allow_encryption);
  useEffect(() => {
    options.patch({ bundleId: where.view === "bundle" ? where.id : null });
  }, [where]);
  return (
    <div class="options">
      <div class="options-row">
        <Choice
          label="Put into"
          compact
          value={chosen.bundleId ?? ""}
          options={[["", "My files"], ...(known ?? []).map(nameOf)]}
          onValue={(id) => options.patch({ bundleId: id || null })}
        />
        <Choice
          label="Keep"
          compact
          value={chosen.life === null ? "" : String(chosen.life)}
          options={LIVES}
          onValue={(life) => options.patch({ life: life ? Number(life) : null })}
        />
        <Switch
          label="Encrypt with a password"
          checked={chosen.encrypt}
          disabled={allowed === false}
          onChecked={(encrypt) => options.patch({ encrypt, password: "", repeated: "" })}
        />
      </div>
      {chosen.encrypt && <Passwords />}
    </div>
  );
}

function nameOf(bundle: Bundle): readonly [string, string] {
  return [bundle.id, `Bundle: ${bundle.name}`];
}

function Passwords() {
  const chosen = useStore(options);
  const differs = chosen.repeated && chosen.repeated !== chosen.password;
  return (
    <div class="passwords">
      <div class="pair">
        <Field
          label="Password"
          type="password"
          autocomplete="new-password"
          value={chosen.password}
          onValue={(password) => options.patch({ password })}
        />
        <Field
          label="Password again"
          type="password"
          autocomplete="new-password"
          value={chosen.repeated}
          problem={differs ? objection(chosen) : null}
          onValue={(repeated) => options.patch({ repeated })}
        />
      </div>
      <p class="hint">
        Only this password opens the files you add now. Nobody can read them without it, and nobody
        can recover it for you: keep it somewhere safe.
      </p>
    </div>
  );
}
