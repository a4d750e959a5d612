import { bytes } from "../format.ts";

/** Why the server did not take a file, in the units that people think in. */
export function reason(code: unknown, meta: unknown, message: string): string {
  const told = (meta ?? {}) as Record<string, unknown>;
  const most = told["max_file_size"];
  if (code === "FILE_TOO_LARGE" && typeof most === "number") {
    return `Too large: at most ${bytes(most)} are taken here.`;
  }
  const [quota, needed] = [told["quota"], told["needed"]].map(Number);
  if (code === "QUOTA_EXCEEDED" && quota !== undefined && needed) {
    // How full a pool is tells of others' files, so only admins learn `used`.
    const used = told["used"];
    if (typeof used !== "number") {
      return `Not enough space: it needs ${bytes(needed)}, and the pool has less left.`;
    }
    const left = bytes(Math.max(0, quota - used));
    return `Not enough space: it needs ${bytes(needed)}, and ${left} are left. Delete something first.`;
  }
  const [limit, unsent] = [told["limit"], told["unsent_bytes"]].map(Number);
  if (code === "TOO_MANY_UNSENT_BYTES" && limit && unsent) {
    return `Too much at once: uploads in progress still have ${bytes(unsent)} to send, and at most ${bytes(limit)} may be reserved. Let them end, or cancel some.`;
  }
  return message;
}
