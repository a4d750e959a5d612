import type { Quota } from "../api.ts";

/** What may be held, in bytes; `null` is no limit. */
export interface Limit {
  used: number;
  /** Bytes of `used` that uploads in progress have reserved. */
  reserved: number;
  quota: number | null;
  /** The pool whose limit it is; `null`: the account's, over all pools. */
  pool: string | null;
}

/** The one that is reached first: the account's, or that of the pool that files are put in. */
export function tightest(held: Quota, poolId: string | undefined): Limit {
  const account = { used: held.used, reserved: held.reserved, quota: held.quota, pool: null };
  const own = held.pools.find(({ pool }) => pool.id === poolId);
  if (!own || own.quota === null) return account;
  const left = account.quota === null ? Number.POSITIVE_INFINITY : account.quota - account.used;
  if (left <= own.quota - own.used) return account;
  return { used: own.used, reserved: own.reserved, quota: own.quota, pool: own.pool.name };
}
