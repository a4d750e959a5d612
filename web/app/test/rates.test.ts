import { expect, test } from "vitest";
import { Rate } from "../src/state/rates.ts";

function rateOf(...samples: [at: number, bytes: number][]): number {
  const rate = new Rate();
  for (const [at, bytes] of samples) rate.note(bytes, at);
  return rate.value;
}

test("unknown until something has come", () => {
  expect(rateOf()).toBe(0);
  expect(rateOf([0, 5])).toBe(0);
  expect(rateOf([0, 0], [100, 900])).toBe(0);
});

test("bytes a second", () => expect(rateOf([0, 0], [2000, 10_000])).toBe(5000));

test("what was long ago does not count", () => {
  const slow: [number, number][] = [...Array(20).keys()].map((second) => [second * 1000, second]);
  expect(rateOf(...slow, [28_000, 9019])).toBeCloseTo(1000, 0);
});

test("nothing comes any more", () => {
  expect(rateOf([0, 0], [1000, 5000], [9500, 5000], [18_000, 5000])).toBe(0);
});

test("begun anew", () => expect(rateOf([0, 9000], [1000, 0], [2000, 700])).toBe(700));

test("a rest does not count", () => {
  const rate = new Rate();
  rate.note(0, 0);
  rate.forget();
  rate.note(0, 6000);
  rate.note(5000, 7000);
  expect(rate.value).toBe(5000);
});
