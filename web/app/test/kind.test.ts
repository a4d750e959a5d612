import { expect, test } from "vitest";
import { kindOf, typeOf } from "../src/kind.ts";

test.each([
  ["image/jpg", "a.jpg", "image/jpeg"],
  ["Image/PNG; q=1", "a.png", "image/png"],
  ["audio/x-wav", "a.wav", "audio/x-wav"],
  ["image/jpeg", "a.jpg.GZ", "application/octet-stream"],
])("the type of %s called %s is %s", (declared, name, told) => {
  const file = { mime_type: declared, name };
  expect(typeOf(file)).toBe(told);
  expect(kindOf(file)).toBe(told.split("/")[0]);
});
