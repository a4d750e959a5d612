import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { brotliCompress, constants, gzip } from "node:zlib";
import type { Plugin } from "vite";

const COMPRESSIBLE = /\.(?:css|html|js|json|svg|wasm|webmanifest)$/;
const codings = {
  ".br": (data: Buffer) =>
    promisify(brotliCompress)(data, {
      params: { [constants.BROTLI_PARAM_SIZE_HINT]: data.length },
    }),
  ".gz": (data: Buffer) => promisify(gzip)(data, { level: 9 }),
};

/** Puts compressed forms beside the files of a build, where they are smaller. */
export function compressed(): Plugin {
  let folder = "";
  return {
    name: "compressed",
    apply: "build",
    configResolved(config) {
      folder = join(config.root, config.build.outDir);
    },
    async closeBundle() {
      const names = await readdir(folder, { recursive: true });
      await Promise.all(
        names.filter((name) => COMPRESSIBLE.test(name)).map((name) => compress(join(folder, name))),
      );
    },
  };
}

async function compress(path: string): Promise<void> {
  const data = await readFile(path);
  for (const [suffix, coding] of Object.entries(codings)) {
    const smaller = await coding(data);
    if (smaller.length < data.length) await writeFile(path + suffix, smaller);
  }
}
