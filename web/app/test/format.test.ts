import { describe, expect, test } from "vitest";
import { bytes, clock, count, extension, span } from "../src/format.ts";

describe("sizes", () => {
  test.each([
    [0, "0 bytes"],
    [1, "1 byte"],
    [999, "999 bytes"],
    [1000, "1.0 kB"],
    [99_949, "99.9 kB"],
    [99_951, "100 kB"],
    [999_499, "999 kB"],
    [999_500, "1.0 MB"],
    [5_000_000_000, "5.0 GB"],
    [2e18, "2000 PB"],
  ])("%d", (size, text) => expect(bytes(size)).toBe(text));
});

describe("spans", () => {
  test.each([
    [0, "1 s"],
    [0.2, "1 s"],
    [59.9, "60 s"],
    [60, "1 min"],
    [3570, "1 h"],
    [3600, "1 h"],
    [3660, "1 h 1 min"],
    [86_399, "1 day"],
    [86_400, "1 day"],
    [200_000, "2 days"],
  ])("%d seconds", (seconds, text) => expect(span(seconds)).toBe(text));
});

test("lengths of recordings", () => {
  expect([3.2, 65, 3909, 36_000].map(clock)).toEqual(["0:03", "1:05", "1:05:09", "10:00:00"]);
});

test("counts", () => {
  expect([0, 1, 2].map((number) => count(number, "file"))).toEqual([
    "0 files",
    "1 file",
    "2 files",
  ]);
});

test("extensions on tiles", () => {
  const names = ["a.jpg", "a.tar.gz", ".profile", "README", "a.jpeg2000", "日本.ＺＩＰ"];
  expect(names.map(extension)).toEqual(["JPG", "GZ", "", "", "", ""]);
});
