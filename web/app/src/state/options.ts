import { Store } from "../store.ts";

/** What holds for the files that are added next. */
export interface Options {
  bundleId: string | null;
  /** Seconds until they are gone; `null`: they stay. */
  life: number | null;
  encrypt: boolean;
  password: string;
  repeated: string;
}

export const options = new Store<Options>({
  bundleId: null,
  life: null,
  encrypt: false,
  password: "",
  repeated: "",
});

/** Why files cannot be taken with these options, or null. */
export function objection({ encrypt, password, repeated }: Options): string | null {
  if (!encrypt) return null;
  if (!password) return "Choose a password for the encrypted files first.";
  return password === repeated ? null : "The two passwords differ; type the same one twice.";
}
