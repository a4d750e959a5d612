import { expect, test } from "vitest";
import type { Quota } from "../src/api.ts";
import { tightest } from "../src/state/limits.ts";

const fast = { id: "1", name: "fast" };

function held(quota: number | null, used: number, pool: number | null, inPool: number): Quota {
  const available = quota === null ? null : quota - used;
  const limits = { max_open_uploads: 200, max_unsent_bytes: null };
  const pools = [{ pool: fast, quota: pool, used: inPool, reserved: 1 }];
  return { quota, used, available, reserved: 2, ...limits, pools };
}

test.each([
  ["no limit at all", held(null, 5, null, 5), { used: 5, reserved: 2, quota: null, pool: null }],
  ["the account's alone", held(10, 5, null, 5), { used: 5, reserved: 2, quota: 10, pool: null }],
  ["the pool's alone", held(null, 5, 8, 3), { used: 3, reserved: 1, quota: 8, pool: "fast" }],
  ["less left in the pool", held(10, 5, 4, 1), { used: 1, reserved: 1, quota: 4, pool: "fast" }],
  ["less left to the account", held(10, 8, 9, 1), { used: 8, reserved: 2, quota: 10, pool: null }],
  ["as much left", held(10, 5, 8, 3), { used: 5, reserved: 2, quota: 10, pool: null }],
])("%s", (_, quota, limit) => {
  expect(tightest(quota, "1")).toEqual(limit);
});

test("a pool that nothing is put in does not count", () => {
  expect(tightest(held(null, 5, 8, 3), "2")).toEqual({
    used: 5,
    reserved: 2,
    quota: null,
    pool: null,
  });
});
