import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { bytes } from "./format.ts";
import { loadBundles } from "./state/bundles.ts";
import { loadPools, look, pools, quota, refreshQuota } from "./state/files.ts";
import { tightest } from "./state/limits.ts";
import { follow } from "./state/live.ts";
import { loadRecycled } from "./state/recycled.ts";
import { type Route, route } from "./state/route.ts";
import { logOut, openSession, reachable, session, watchConnection } from "./state/session.ts";
import { attempt } from "./state/toasts.ts";
import { loadTasks } from "./state/waiting.ts";
import { useStore } from "./store.ts";
import { Bar, Button, IconButton } from "./ui/basics.tsx";
import { dialogs } from "./ui/dialog.tsx";
import { Icon, Mark } from "./ui/icons.tsx";
import { Announcer, Messages } from "./ui/toasts.tsx";
import { BundleHead, Bundles } from "./views/bundles.tsx";
import { Files } from "./views/files.tsx";
import { Welcome } from "./views/welcome.tsx";

export function App() {
  const status = useStore(session, ({ status }) => status);
  useEffect(() => {
    watchConnection();
    void openSession();
  }, []);
  if (status === "out") return <Welcome />;
  if (status === "unknown") return <Opening />;
  return <Home />;
}

function Opening() {
  const here = useStore(reachable);
  return (
    <main class="opening" id="main" aria-busy="true">
      <Mark />
      <p role="status">{here ? "" : "The server does not answer yet; trying again…"}</p>
    </main>
  );
}

function Home() {
  const where = useStore(route);
  const covered = useStore(dialogs, (open) => open > 0);
  useEffect(() => {
    void loadPools();
    void loadBundles();
    void refreshQuota();
    void loadTasks();
    void loadRecycled();
    follow();
  }, []);
  const bundleId = where.view === "bundle" ? where.id : null;
  useEffect(() => {
    if (where.view !== "bundles") look({ bundleId, search: "" });
  }, [where.view, bundleId]);
  return (
    <>
      <button type="button" class="skip" onClick={skip}>
        Skip to the files
      </button>
      <Header where={where} />
      <Notices />
      <main id="main" tabIndex={-1}>
        {bundleId && <BundleHead key={bundleId} id={bundleId} />}
        <div hidden={where.view === "bundles"}>
          <UploadPart />
        </div>
        {where.view === "files" && <Files title="Files" />}
        {where.view === "bundles" && <Bundles />}
        {bundleId && <Files title="In this bundle" />}
      </main>
      {!covered && <Messages />}
      <Announcer />
    </>
  );
}

function skip(): void {
  document.querySelector<HTMLElement>(".files input, .bundles button, .bundles a")?.focus();
}

function Header({ where }: { where: Route }) {
  const account = useStore(session, (value) => value.account);
  const current = (view: boolean) => (view ? "page" : undefined);
  return (
    <header class="top">
      <h1>
        <a href="#/">
          <Mark />
          Upwell
        </a>
      </h1>
      <nav aria-label="Main">
        <a href="#/" aria-current={current(where.view === "files")}>
          Files
        </a>
        <a href="#/bundles" aria-current={current(where.view !== "files")}>
          Bundles
        </a>
      </nav>
      <Usage />
      <IconButton
        icon="logout"
        label={`Log out${account ? ` (${account.name})` : ""}`}
        onClick={() => void attempt(logOut)}
      />
    </header>
  );
}

function Usage() {
  const held = useStore(quota);
  const target = useStore(pools, (all) => all.find((pool) => pool.is_default)?.id);
  if (!held) return <div class="usage" />;
  const limit = tightest(held, target);
  const share = limit.quota ? limit.used / limit.quota : null;
  return (
    <div class="usage">
      <p class="facts">
        {bytes(limit.used)} {limit.quota === null ? "used" : `of ${bytes(limit.quota)}`}
        {limit.pool && <bdi> in “{limit.pool}”</bdi>}
        {limit.reserved > 0 && <span>, {bytes(limit.reserved)} of it reserved by uploads</span>}
      </p>
      {share !== null && (
        <Bar share={share} label="Space used" tone={share > 0.9 ? "full" : "accent"} />
      )}
    </div>
  );
}

/** What is wrong with everything at once. */
function Notices() {
  const here = useStore(reachable);
  const lost = useStore(session, ({ status }) => status === "lost");
  return (
    <div role="status">
      {!here && (
        <p class="notice">
          <Icon name="warning" />
          No connection to the server. Uploads go on by themselves when it is back.
        </p>
      )}
      {lost && (
        <p class="notice">
          <Icon name="warning" />
          <span>
            You are logged out. Open a new login link in this browser (<code>upwell login</code>{" "}
            prints one), then go on here: nothing is lost.
          </span>
          <Button onClick={() => void openSession()}>Go on</Button>
        </p>
      )}
    </div>
  );
}

/** Uppy and what belongs to it come after the list is there. */
function UploadPart() {
  const [Part, setPart] = useState<ComponentType | null>(null);
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    import("./views/upload.tsx")
      .then(async ({ default: Loaded, ready }) => {
        await ready;
        setPart(() => Loaded);
      })
      .catch(() => setFailed(true));
  }, []);
  if (Part) return <Part />;
  return (
    <div class="card drop-card loading">
      <div class="drop-area">
        {failed && (
          <Button icon="retry" onClick={() => location.reload()}>
            Uploading could not be loaded. Reload
          </Button>
        )}
      </div>
    </div>
  );
}
