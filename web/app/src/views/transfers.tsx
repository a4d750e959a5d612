import type {} from "@uppy/thumbnail-generator"; // its events
import { useEffect, useState } from "preact/hooks";
import { bytes, count, extension, span, speed } from "../format.ts";
import { type Phase, type Total, type Transfer, totalOf, transfers } from "../state/transfers.ts";
import { cancel, clearDone, pauseResume, retry, uppy } from "../state/uploads.ts";
import { useStore } from "../store.ts";
import { Bar, Button, IconButton } from "../ui/basics.tsx";
import { Icon } from "../ui/icons.tsx";
import { PasswordForm } from "../ui/password-form.tsx";

// Rows; a folder may have thousands, and what is done is in the list of files too.
const SHOWN = 10;
const SHOWN_DONE = 3;
const RANK: Record<Phase, number> = {
  sending: 0,
  verifying: 0,
  hashing: 0,
  paused: 0,
  failed: 1,
  waiting: 2,
  done: 3,
};

/** What is on its way, and what just arrived. */
export function Transfers() {
  const all = useStore(transfers);
  const [whole, setWhole] = useState(false);
  if (!all.length) return null;
  const sorted = all.toSorted((a, b) => RANK[a.phase] - RANK[b.phase]);
  const shown = whole ? sorted : fewOf(sorted);
  const rest = all.length - shown.length;
  return (
    <div class="card transfers">
      <Summary total={totalOf(all)} />
      <ul aria-label="Uploads">
        {shown.map((each) => (
          <Row key={each.id} transfer={each} />
        ))}
      </ul>
      {(rest > 0 || whole) && (
        <p class="rest">
          <Button kind="quiet" onClick={() => setWhole(!whole)}>
            {whole ? "Show fewer" : `Show ${count(rest, "more file")}`}
          </Button>
        </p>
      )}
    </div>
  );
}

function fewOf(sorted: readonly Transfer[]): Transfer[] {
  const busy = sorted.filter((each) => each.phase !== "done");
  const done = sorted.filter((each) => each.phase === "done");
  return [...busy.slice(0, SHOWN), ...done.slice(-SHOWN_DONE)];
}

function headline({ files, done, failed, paused, active }: Total): string {
  if (active) return `Uploading ${count(files - done - failed, "file")}`;
  if (paused) return "Paused";
  if (failed) return `${count(failed, "file")} could not be uploaded`;
  return `${count(done, "file")} uploaded`;
}

function factsOf(total: Total): string {
  const { size, done, paused, active, rate, left, files, existing } = total;
  const busy = active > 0 || paused > 0;
  if (!busy && total.failed) return `${done} of ${files} done`;
  const facts = [
    busy ? `${bytes(Math.round(total.bytes))} of ${bytes(size)}` : bytes(size),
    busy && files > 1 ? `${done} of ${files} done` : "",
    active && rate > 0 ? speed(rate) : "",
    active && left !== null ? `${span(left)} left` : "",
    existing ? `${existing} already here` : "",
  ];
  return facts.filter(Boolean).join(" · ");
}

function Summary({ total }: { total: Total }) {
  const { size, failed, paused, active } = total;
  const busy = active > 0 || paused > 0;
  return (
    <header class="summary">
      <div class="summary-text">
        <h2>{headline(total)}</h2>
        <p class="facts">{factsOf(total)}</p>
      </div>
      <SummaryTools total={total} />
      <Bar
        share={size ? total.bytes / size : busy || failed ? 0 : 1}
        label="All uploads"
        tone={busy || !failed ? "accent" : "calm"}
      />
    </header>
  );
}

function SummaryTools({ total: { done, failed, paused, active } }: { total: Total }) {
  const busy = active > 0 || paused > 0;
  return (
    <div class="summary-tools">
      {busy && <PauseAll paused={!active} />}
      {active > 0 && paused > 0 && <PauseAll paused />}
      {failed > 0 && (
        <Button icon="retry" kind="quiet" onClick={() => void uppy.retryAll()}>
          Retry all
        </Button>
      )}
      {busy && (
        <Button icon="close" kind="quiet" onClick={() => uppy.cancelAll()}>
          Cancel all
        </Button>
      )}
      {!busy && done > 0 && (
        <Button icon="check" kind="quiet" onClick={clearDone}>
          Clear
        </Button>
      )}
    </div>
  );
}

/** One button for both, so that who pressed it by keyboard keeps the focus. */
function PauseAll({ paused }: { paused: boolean }) {
  return (
    <Button
      icon={paused ? "play" : "pause"}
      kind="quiet"
      onClick={() => (paused ? uppy.resumeAll() : uppy.pauseAll())}
    >
      {paused ? "Resume all" : "Pause all"}
    </Button>
  );
}

function story(transfer: Transfer): string {
  const { phase, size, share, rate, left, error, existing } = transfer;
  const sent = `${bytes(Math.round(share * size))} of ${bytes(size)}`;
  switch (phase) {
    case "waiting":
      return `${bytes(size)} · Waiting`;
    case "hashing":
      return `${bytes(size)} · Checking, ${Math.floor(share * 100)} %`;
    case "sending": {
      const facts = [sent, rate > 0 ? speed(rate) : "", left === null ? "" : `${span(left)} left`];
      return facts.filter(Boolean).join(" · ");
    }
    case "verifying":
      return `${bytes(size)} · Verifying`;
    case "paused":
      return `${sent} · Paused`;
    case "failed":
      return error ?? "Failed";
    case "done":
      return existing ? `${bytes(size)} · Already here, nothing had to be sent` : bytes(size);
  }
}

function Row({ transfer }: { transfer: Transfer }) {
  const { name, folder, phase, encrypted } = transfer;
  const ended = phase === "waiting" || phase === "failed" || phase === "done";
  return (
    <li class={`transfer ${phase}`}>
      <Picture transfer={transfer} />
      <div class="transfer-text">
        <p class="name">
          <bdi>{name}</bdi>
          {encrypted && <Icon name="lock" />}
          {encrypted && <span class="unseen">, encrypted</span>}
        </p>
        <p class="facts">
          {transfer.waiting ?? story(transfer)}
          {folder && <bdi class="folder"> · {folder}</bdi>}
        </p>
        {!ended && (
          <Bar share={transfer.share} label={name} tone={phase === "sending" ? "accent" : "calm"} />
        )}
      </div>
      <RowTools transfer={transfer} />
    </li>
  );
}

function RowTools({ transfer: { id, name, phase, locked } }: { transfer: Transfer }) {
  const [asking, setAsking] = useState(false);
  const paused = phase === "paused";
  const pausable = phase !== "verifying" && phase !== "failed" && phase !== "done";
  return (
    <div class="transfer-tools">
      {pausable && (
        // One all along, so that who came to it by keyboard keeps the focus.
        <IconButton
          icon={paused ? "play" : "pause"}
          label={`${paused ? "Resume" : "Pause"} ${name}`}
          onClick={() => pauseResume(id)}
        />
      )}
      {phase === "failed" && !locked && (
        <IconButton icon="retry" label={`Retry ${name}`} onClick={() => retry(id)} />
      )}
      {locked && (
        <IconButton icon="lock" label={`Password of ${name}`} onClick={() => setAsking(true)} />
      )}
      {phase !== "done" && (
        <IconButton icon="close" label={`Cancel ${name}`} onClick={() => cancel(id)} />
      )}
      {phase === "done" && (
        <span class="arrived">
          <Icon name="check" />
          <span class="unseen">Uploaded</span>
        </span>
      )}
      {asking && (
        <PasswordForm
          title={name}
          hint="Its upload was begun with a password: give the same one to go on."
          action="Go on"
          onPassword={(password) => {
            setAsking(false);
            retry(id, password);
          }}
          onClose={() => setAsking(false)}
        />
      )}
    </div>
  );
}

function Picture({ transfer: { id, preview, name } }: { transfer: Transfer }) {
  useEffect(() => {
    const file = uppy.getFile(id);
    if (file && !file.preview) uppy.emit("thumbnail:request", file);
    return () => {
      const gone = uppy.getFile(id);
      if (gone && !gone.preview) uppy.emit("thumbnail:cancel", gone);
    };
  }, [id]);
  const word = extension(name);
  return (
    <span class="thumb">
      {preview ? (
        <img src={preview} alt="" width="48" height="48" />
      ) : (
        <>
          <Icon name="file" />
          {word && <span class="thumb-word">{word}</span>}
        </>
      )}
    </span>
  );
}
