import type { JSX } from "preact";

const PATHS = {
  audio: "M9 18V6l10-2v12M9 18a3 3 0 1 1-6 0 3 3 0 0 1 6 0Zm10-2a3 3 0 1 1-6 0 3 3 0 0 1 6 0Z",
  bundle: "M3 8.5 12 4l9 4.5v7L12 20l-9-4.5v-7Zm0 0 9 4.5 9-4.5M12 13v7",
  check: "m5 12.5 4.5 4.5L19 7.5",
  close: "m6 6 12 12M18 6 6 18",
  copy: "M9 9h10v11H9zM5 15V4h10",
  download: "M12 4v11m0 0 4.5-4.5M12 15l-4.5-4.5M5 20h14",
  edit: "m4 20 1-4L16.5 4.5a2 2 0 0 1 3 3L8 19l-4 1ZM14 7l3 3",
  file: "M14 3H6v18h12V7l-4-4Zm0 0v4h4",
  left: "m14.5 6-6 6 6 6",
  link: "M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-5.7-5.7L12 7m2 3a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 5.7 5.7L12 17",
  lock: "M6 11h12v9H6zm2.5 0V8a3.5 3.5 0 0 1 7 0v3",
  logout: "M14 4H5v16h9m-4-8h11m0 0-4-4m4 4-4 4",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  open: "M13 4h7v7m0-7-9 9M9 5H4v15h15v-5",
  pause: "M9 6v12M15 6v12",
  play: "M8 5.5v13l10-6.5-10-6.5Z",
  plus: "M12 5v14M5 12h14",
  retry: "M20 12a8 8 0 1 1-2.5-5.8M20 3v4.5h-4.5",
  right: "m9.5 6 6 6-6 6",
  search: "M16.5 16.5 21 21m-2.5-10a7.5 7.5 0 1 1-15 0 7.5 7.5 0 0 1 15 0Z",
  trash: "M4 7h16M9 7V4h6v3m-8.5 0 1 13h9l1-13M10 11v5.5m4-5.5v5.5",
  upload: "M12 20V8m0 0 5 5m-5-5-5 5M5 4h14",
  video: "M4 6h11v12H4zm11 4.5 5-3v9l-5-3",
  warning: "M12 4 2.5 20h19L12 4Zm0 6v4.5m0 2.8v.2",
};

export type IconName = keyof typeof PATHS;

/** A picture beside or instead of words; the words are the button's own. */
export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg class={`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Mark(): JSX.Element {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect class="mark-ground" width="32" height="32" rx="9" />
      <path d="M16 20V8.5m0 0 4.7 4.7M16 8.5l-4.7 4.7" />
      <path d="M7 21.5c3 0 3 2.5 6 2.5s3-2.5 6-2.5 3 2.5 6 2.5" />
    </svg>
  );
}
