import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { Store } from "../store.ts";
import { IconButton } from "./basics.tsx";
import { Messages } from "./toasts.tsx";

/** How many dialogs are open: messages show in the topmost, for all else is out of reach. */
export const dialogs = new Store(0);

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  kind?: "form" | "viewer";
  /** Beside the title. */
  tools?: ComponentChildren;
}

/** A dialog of the browser's own: it keeps the focus in, and Escape closes it. */
export function Dialog({ title, onClose, children, kind = "form", tools }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    dialogs.set(dialogs.value + 1);
    return () => {
      dialogs.set(dialogs.value - 1);
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  const closeOutside = (event: MouseEvent) => {
    if (event.target === dialog.current) onClose();
  };
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Escape is the keyboard's way, by the browser
    <dialog
      ref={dialog}
      class={`dialog ${kind}`}
      aria-labelledby={id}
      onClose={onClose}
      onClick={closeOutside}
    >
      <div class="dialog-body">
        <header class="dialog-head">
          <h2 id={id}>
            <bdi>{title}</bdi>
          </h2>
          {tools}
          <IconButton icon="close" label="Close" onClick={onClose} />
        </header>
        {children}
      </div>
      <Messages />
    </dialog>
  );
}
