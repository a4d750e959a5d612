import { announcement, dismiss, toasts } from "../state/toasts.ts";
import { useStore } from "../store.ts";
import { Button, IconButton } from "./basics.tsx";

/** Messages that come and go. */
export function Messages() {
  const shown = useStore(toasts);
  return (
    <div class="toasts" role="status" aria-live="polite">
      {shown.map((toast) => (
        <div key={toast.id} class={`toast ${toast.kind}`}>
          <span>{toast.text}</span>
          {toast.action && (
            <Button kind="quiet" onClick={toast.action.run}>
              {toast.action.label}
            </Button>
          )}
          <IconButton icon="close" label="Dismiss" onClick={() => dismiss(toast.id)} />
        </div>
      ))}
    </div>
  );
}

/** For those who listen to the page. */
export function Announcer() {
  return (
    <div class="unseen" role="log" aria-live="polite" aria-label="Uploads">
      {useStore(announcement)}
    </div>
  );
}
