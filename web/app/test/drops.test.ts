import { expect, test } from "vitest";
import { dropped } from "../src/drops.ts";

type Tree = { [name: string]: Tree | string | null };

/** An entry as browsers give it: a folder, a file with its text, or, of null, nothing that can be read. */
function entry(name: string, what: Tree | string | null): unknown {
  if (what !== null && typeof what === "object") {
    return { name, isFile: false, isDirectory: true, createReader: () => reader(what) };
  }
  const file = (resolve: (file: File) => void, reject: (error: Error) => void) =>
    what === null ? reject(new Error("NotFoundError")) : resolve(new File([what], name));
  return { name, isFile: true, isDirectory: false, file };
}

/** Gives one entry at a time; one that is named `!` is where reading fails. */
function reader(tree: Tree) {
  const left = Object.entries(tree);
  return {
    readEntries(resolve: (entries: unknown[]) => void, reject: (error: Error) => void) {
      const next = left.shift();
      if (next?.[0] === "!") reject(new Error("NotReadableError"));
      else resolve(next ? [entry(...next)] : []);
    },
  };
}

function transfer(tree: Tree): DataTransfer {
  const items = Object.entries(tree).map(([name, what]) => ({
    webkitGetAsEntry: () => entry(name, what),
    getAsFile: () => (typeof what === "string" ? new File([what], name) : null),
  }));
  return { items } as unknown as DataTransfer;
}

test("what cannot be read does not keep the rest", async () => {
  const { files, unreadable } = await dropped(
    transfer({
      photos: {
        "a.jpg": "a",
        gone: null,
        private: { "!": null },
        half: { "b.jpg": "b", "!": null, "c.jpg": "c" },
        empty: {},
        "d.jpg": "d",
      },
      lost: null,
      "single.txt": "e",
    }),
  );
  expect(files.map((file) => (file as File & { relativePath?: string }).relativePath)).toEqual([
    "photos/a.jpg",
    "photos/half/b.jpg",
    "photos/d.jpg",
    undefined,
  ]);
  expect(files.at(-1)?.name).toBe("single.txt");
  expect(unreadable).toEqual(["photos/gone", "photos/private", "photos/half", "lost"]);
});
