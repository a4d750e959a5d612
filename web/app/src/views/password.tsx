import { useState } from "preact/hooks";
import { type CloudFile, client } from "../api.ts";
import { explain, noteFailure } from "../state/session.ts";
import { PasswordForm } from "../ui/password-form.tsx";

/** Asks for an encrypted file's password, and hands the file to the browser's downloads. */
export function PasswordDialog({ file, onClose }: { file: CloudFile; onClose: () => void }) {
  const [problem, setProblem] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const open = async (password: string) => {
    setBusy(true);
    setProblem(null);
    try {
      await unlock(file, password);
      onClose();
    } catch (error) {
      noteFailure(error);
      setProblem(explain(error));
      setBusy(false);
    }
  };
  return (
    <PasswordForm
      title={file.name}
      hint="This file is encrypted: only the password that it was given opens it."
      action={busy ? "Opening…" : "Download"}
      icon="download"
      problem={problem}
      busy={busy}
      onPassword={(password) => void open(password)}
      onClose={onClose}
    />
  );
}

/**
 * The browser's own downloads take any size, but no header: so the password goes in a form. It is
 * tried first, because the form has no way back to this page. Rejects with an UpwellError.
 */
async function unlock(file: CloudFile, password: string): Promise<void> {
  const range = file.size ? ([0, 0] as const) : undefined;
  const answer = await client.files.open(file.id, { password, range });
  await answer.body?.cancel();
  post(`${client.files.url(file.id)}/open`, { password });
}

function post(action: string, fields: Record<string, string>): void {
  const form = document.createElement("form");
  form.method = "post";
  form.action = action;
  form.hidden = true;
  for (const [name, value] of Object.entries(fields)) {
    const input = document.createElement("input");
    input.type = "hidden";
    input.name = name;
    input.value = value;
    form.append(input);
  }
  document.body.append(form);
  form.submit();
  form.remove();
}
