import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";

// What a first visit may load, all parts of the page together, even those that it may not need.
const BUDGET = 150_000; // bytes, compressed
const FOLDER = join(import.meta.dirname, "../../src/upwell/page");
const COMPRESSED = /\.(?:br|gz)$/;

const names = (await readdir(FOLDER, { recursive: true, withFileTypes: true }))
  .filter((entry) => entry.isFile() && !COMPRESSED.test(entry.name))
  .map((entry) => join(entry.parentPath, entry.name));
const rows = await Promise.all(
  names.map(async (name) => {
    const data = await readFile(name);
    const [brotli, gzip] = [brotliCompressSync(data).length, gzipSync(data, { level: 9 }).length];
    return { file: name.slice(FOLDER.length + 1), bytes: data.length, brotli, gzip };
  }),
);
rows.sort((one, other) => other.gzip - one.gzip);
const total = { file: "total", bytes: 0, brotli: 0, gzip: 0 };
for (const { bytes, brotli, gzip } of rows) {
  total.bytes += bytes;
  total.brotli += brotli;
  total.gzip += gzip;
}
for (const { file, bytes, brotli, gzip } of [...rows, total]) {
  const figures = [bytes, brotli, gzip].map((each) => each.toLocaleString("en").padStart(9));
  console.log(`${file.padEnd(36)}${figures.join("")}`);
}
if (total.gzip > BUDGET) {
  console.error(`The page weighs ${total.gzip} bytes (gzip); its budget is ${BUDGET}.`);
  process.exitCode = 1;
}
