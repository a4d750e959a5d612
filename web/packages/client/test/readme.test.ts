/** The README's example runs as printed. */

import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";

import { expect, test } from "vitest";

import { random, Server } from "./harness.ts";

const PACKAGE = join(import.meta.dirname, "..");

test("the example uploads, downloads and shares", async () => {
  const readme = readFileSync(join(PACKAGE, "README.md"), "utf8");
  const marked = /readme\.test\.ts runs this block -->\n```js\n(.*?)```/s.exec(readme);
  const server = await Server.start();
  try {
    const content = random(6 << 20);
    writeFileSync(join(server.folder, "holiday.mp4"), content);
    const code = (marked?.[1] ?? "").replace("https://files.example.org", server.url);
    const script = `process.chdir(${JSON.stringify(server.folder)});\n${code}`;
    const node = ["--conditions=upwell-source", "--input-type=module", "--eval", script];
    const env = { ...process.env, UPWELL_TOKEN: server.token };
    const { stdout } = await promisify(execFile)(process.execPath, node, { cwd: PACKAGE, env });

    expect(stdout).toContain("verifying 6291456 6291456");
    expect(stdout).toContain("is stored");
    expect(stdout).toContain(`${server.url}/s/`);
    expect(new Uint8Array(readFileSync(join(server.folder, "copy.mp4")))).toEqual(content);
  } finally {
    await server.stop();
  }
});
