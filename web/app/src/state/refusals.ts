import { bytes } from "../format.ts";

/** Why the server did not take a file, in the units that people think in. */
export function reason(code: unknown, meta: unknown, message: string): string {
  const told = (meta ?? {}) as Record<string, unknown>;
  const most = told["max_file_size"];
  if (code === "FILE_TOO_LARGE" && typeof most === "number") {
    return `Too large: at most ${bytes(most)} are taken here.`;
  }
  const [quota, used, needed] = [told["quota"], told["used"], told["needed"]].map(Number);
  if (code === "QUOTA_EXCEEDED" && quota !== undefined && used !== undefined && needed) {
    const left = bytes(Math.max(0, quota - used));
    return `Not enough space: it needs ${bytes(needed)}, and ${left} are left. Delete something first.`;
  }
  return message;
}
