import { key } from "./waiting.ts";

const STORED = "upwell:tokens";
const MOST = 100;

interface Looks {
  name: string;
  size: number | null;
}

/** By what a file looks like, the oldest first. */
function stored(): Map<string, string> {
  try {
    return new Map(JSON.parse(localStorage.getItem(STORED) ?? "[]"));
  } catch {
    return new Map();
  }
}

function store(tokens: ReadonlyMap<string, string>): void {
  localStorage.setItem(STORED, JSON.stringify([...tokens].slice(-MOST)));
}

function looksOf({ name, size }: Looks): string {
  return key({ name, size: size ?? 0 });
}

/** Keep what was found out about a file that has to be chosen again: it need not be read again. */
export function keepToken(file: Looks, token: string): void {
  store(stored().set(looksOf(file), token));
}

/** What was kept of a file that looks like this one; the upload finds out whether it still fits. */
export function takeToken(file: Looks): string | undefined {
  const tokens = stored();
  const token = tokens.get(looksOf(file));
  if (tokens.delete(looksOf(file))) store(tokens);
  return token;
}

export function forgetTokens(): void {
  localStorage.removeItem(STORED);
}
