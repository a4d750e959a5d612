import { useState } from "preact/hooks";
import { Button, Field } from "./basics.tsx";
import { Dialog } from "./dialog.tsx";
import type { IconName } from "./icons.tsx";

interface PasswordFormProps {
  title: string;
  hint: string;
  action: string;
  icon?: IconName;
  /** Why it was not taken. */
  problem?: string | null;
  busy?: boolean;
  onPassword: (password: string) => void;
  onClose: () => void;
}

/** Asks for the password of a file. */
export function PasswordForm(props: PasswordFormProps) {
  const { title, hint, action, icon, problem, busy, onPassword, onClose } = props;
  const [password, setPassword] = useState("");
  return (
    <Dialog title={title} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          onPassword(password);
        }}
      >
        <p class="hint">{hint}</p>
        <Field
          label="Password"
          type="password"
          autocomplete="off"
          required
          value={password}
          problem={problem}
          onValue={setPassword}
        />
        <div class="dialog-foot">
          <Button
            kind="main"
            {...(icon ? { icon } : {})}
            type="submit"
            disabled={busy || !password}
          >
            {action}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
