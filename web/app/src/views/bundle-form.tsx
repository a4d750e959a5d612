import { useState } from "preact/hooks";
import { ApiError, type Bundle, client } from "../api.ts";
import { loadBundles } from "../state/bundles.ts";
import { explain, noteFailure } from "../state/session.ts";
import { tell } from "../state/toasts.ts";
import { Button, Field, Switch } from "../ui/basics.tsx";
import { Dialog } from "../ui/dialog.tsx";
import { copy } from "./share.tsx";

interface Draft {
  name: string;
  slug: string;
  description: string;
  protect: boolean;
  passcode: string;
  /** As the browser's own field for it has it: local, without seconds; empty for no end. */
  ends: string;
}

type Problems = Partial<Record<keyof Draft | "form", string>>;

const FIELDS: Record<string, keyof Draft> = {
  name: "name",
  slug: "slug",
  description: "description",
  passcode: "passcode",
  expired_at: "ends",
};

const SLUG_RULE = "3 to 64 small letters, digits and hyphens, no hyphen at the ends.";

function draftOf(bundle: Bundle | null): Draft {
  return {
    name: bundle?.name ?? "",
    slug: bundle?.slug ?? "",
    description: bundle?.description ?? "",
    protect: bundle?.has_passcode ?? false,
    passcode: "",
    ends: bundle?.expired_at ? local(bundle.expired_at) : "",
  };
}

function local(instant: string): string {
  const date = new Date(instant);
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

/** Which field the server's refusal is about. */
function problemsOf(error: unknown): Problems {
  if (!(error instanceof ApiError)) return { form: explain(error) };
  if (error.code === "SLUG_TAKEN") return { slug: "This address is taken; choose another." };
  const found = Object.entries(error.errors).flatMap(([field, why]) => {
    const mine = FIELDS[field.split(".").at(-1) ?? ""];
    if (!mine) return [];
    return [[mine, mine === "slug" ? SLUG_RULE : why.join(" ")] as const];
  });
  return found.length ? Object.fromEntries(found) : { form: explain(error) };
}

async function save(bundle: Bundle | null, draft: Draft): Promise<Bundle> {
  const expiresAt = draft.ends ? new Date(draft.ends) : null;
  const passcode = draft.protect ? draft.passcode || undefined : null;
  const told = { name: draft.name.trim(), slug: draft.slug.trim() || undefined };
  const description = draft.description.trim() || null;
  if (bundle) {
    return client.bundles.update(bundle.id, { ...told, description, passcode, expiresAt });
  }
  return client.bundles.create({
    ...told,
    description: description ?? undefined,
    passcode: passcode ?? undefined,
    expiresAt: expiresAt ?? undefined,
  });
}

/** Makes a bundle, or changes one. */
export function BundleForm({ bundle, onClose }: { bundle: Bundle | null; onClose: () => void }) {
  const [draft, setDraft] = useState(() => draftOf(bundle));
  const [problems, setProblems] = useState<Problems>({});
  const [busy, setBusy] = useState(false);
  const put = (fields: Partial<Draft>) => setDraft((before) => ({ ...before, ...fields }));
  const submit = async () => {
    setBusy(true);
    setProblems({});
    try {
      const saved = await save(bundle, draft);
      await loadBundles();
      onClose();
      if (bundle) tell("Saved.");
      else await copy(saved.url, "Bundle made; its link is");
    } catch (error) {
      noteFailure(error);
      setProblems(problemsOf(error));
      setBusy(false);
    }
  };
  const needsPasscode = draft.protect && !draft.passcode && !bundle?.has_passcode;
  return (
    <Dialog title={bundle ? "Change the bundle" : "New bundle"} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <Field
          label="Name"
          required
          autofocus
          value={draft.name}
          problem={problems.name}
          onValue={(name) => put({ name })}
        />
        <Field
          label="Address (optional)"
          hint="Small letters, digits and hyphens. Left empty, a random one is made that nobody guesses."
          placeholder="summer-2026"
          autocapitalize="none"
          spellcheck={false}
          value={draft.slug}
          problem={problems.slug}
          onValue={(slug) => put({ slug })}
        />
        <Field
          label="Description (optional)"
          value={draft.description}
          problem={problems.description}
          onValue={(description) => put({ description })}
        />
        <Field
          label="Ends (optional)"
          type="datetime-local"
          hint="From then on the bundle and its files are gone."
          value={draft.ends}
          problem={problems.ends}
          onValue={(ends) => put({ ends })}
        />
        <Switch
          label="Ask visitors for a passcode"
          checked={draft.protect}
          onChecked={(protect) => put({ protect })}
        />
        {draft.protect && (
          <Field
            label={bundle?.has_passcode ? "New passcode (empty keeps the old one)" : "Passcode"}
            type="password"
            autocomplete="new-password"
            value={draft.passcode}
            problem={problems.passcode}
            onValue={(passcode) => put({ passcode })}
          />
        )}
        {problems.form && (
          <p class="problem" role="alert">
            {problems.form}
          </p>
        )}
        <div class="dialog-foot">
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="main" type="submit" disabled={busy || !draft.name.trim() || needsPasscode}>
            {bundle ? "Save" : "Make the bundle"}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
