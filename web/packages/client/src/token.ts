/** What a page remembers of an upload, to go on with it another day. */

import { TokenInvalid } from "./errors.ts";

/** A token's content. It names a file and its digest; it holds no secret and gives no rights. */
export interface Remembered {
  /** The file's own name. */
  name: string;
  size: number;
  /** Milliseconds since 1970, when the file was last changed; 0 where that is not known. */
  modified: number;
  /** SHA-256 in hex. */
  digest: string;
  /** The task at the server, when there is one. */
  task: string | null;
}

/** As a text that can be saved anywhere. */
export function tokenOf(remembered: Remembered): string {
  const { name, size, modified, digest, task } = remembered;
  const bytes = new TextEncoder().encode(JSON.stringify([1, name, size, modified, digest, task]));
  return btoa(String.fromCharCode(...bytes));
}

/** What a token says. Throws TokenInvalid. */
export function rememberedOf(token: string): Remembered {
  try {
    const bytes = Uint8Array.from(atob(token), (char) => char.charCodeAt(0));
    const [version, name, size, modified, digest, task] = JSON.parse(
      new TextDecoder().decode(bytes),
    );
    // The task becomes part of a path: nothing but an id may get there.
    const named = task === null || /^[0-9a-f]{32}$/.test(task);
    if (version === 1 && named && /^[0-9a-f]{64}$/.test(digest)) {
      return { name, size, modified, digest, task };
    }
  } catch {
    // told below
  }
  throw new TokenInvalid("This is not the token of an upload; upload the file without one.");
}
