import { useState } from "preact/hooks";
import { Button, Field } from "../ui/basics.tsx";
import { Mark } from "../ui/icons.tsx";

/** The login code in what somebody pasted: a link, or the code alone. */
export function codeOf(text: string): string {
  return /[?&]code=([^&\s]+)/.exec(text)?.[1] ?? text.trim();
}

/** For who is not logged in. */
export function Welcome() {
  const [text, setText] = useState("");
  return (
    <main class="welcome" id="main">
      <div class="card">
        <Mark />
        <h1>Welcome to Upwell</h1>
        <p>
          Files of any size, safely kept. You are not logged in yet: open the login link that the
          server printed when it started.
        </p>
        <p>
          No link at hand? Whoever runs the server makes a new one with <code>upwell login</code>.
          It works once.
        </p>
        <form method="post" action="/login">
          <input type="hidden" name="code" value={codeOf(text)} />
          <Field
            label="Or paste the link here"
            autocomplete="off"
            spellcheck={false}
            value={text}
            onValue={setText}
          />
          <Button kind="main" type="submit" disabled={!text.trim()}>
            Log in
          </Button>
        </form>
      </div>
    </main>
  );
}
