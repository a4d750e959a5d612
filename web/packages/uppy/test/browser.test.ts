/** The packages in Chromium, in a page that Vite built, against a real server. */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { build } from "vite";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { type Fault, first, Network, Server } from "../../client/test/harness.ts";
import type {} from "./page/main.ts";

const MB = 1 << 20;
const PAGE = fileURLToPath(new URL("./page", import.meta.url));
const WEB = fileURLToPath(new URL("../../..", import.meta.url));
const README = exampleOf(fileURLToPath(new URL("../README.md", import.meta.url)));

let server: Server;
let network: Network;
let browser: Browser;
let context: BrowserContext;
let page: Page;

beforeAll(async () => {
  server = await Server.start();
  network = await Network.start(server.url);
  network.pages = join(server.folder, "pages");
  for (const name of ["client", "uppy"]) {
    const tsc = join(WEB, "node_modules/.bin/tsc");
    execFileSync(tsc, ["-p", join(WEB, "packages", name, "tsconfig.build.json")]);
  }
  await bundle("source", ["upwell-source"]);
  await bundle("dist", []);
  browser = await chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}, 240_000);

afterAll(async () => {
  await browser?.close();
  await network?.stop();
  await server?.stop();
});

beforeEach(async () => {
  context ??= await loggedIn();
  page = await context.newPage();
});

afterEach(async () => {
  network.reset();
  await page.close();
});

/** Build the page as somebody does who has the packages from npm, or as we do. */
async function bundle(name: string, conditions: string[]): Promise<void> {
  await build({
    root: PAGE,
    base: `/${name}/`,
    logLevel: "error",
    plugins: [{ name: "readme", load: (id) => (id.endsWith("/readme.js") ? README : null) }],
    resolve: { conditions: [...conditions, "module", "browser", "production"] },
    worker: { format: "es" },
    build: { outDir: join(server.folder, "pages", name), target: "es2022", minify: false },
  });
}

/** The code of the README that is to be run. */
function exampleOf(path: string): string {
  const marked = /browser\.test\.ts runs this block -->\n```js\n(.*?)```/s;
  return marked.exec(readFileSync(path, "utf8"))?.[1] ?? "";
}

async function loggedIn(): Promise<BrowserContext> {
  const made = await browser.newContext();
  const { pathname, search } = new URL(server.loginUrl);
  const page = await made.newPage();
  await page.goto(network.url + pathname + search);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForURL(`${network.url}/`);
  return made;
}

async function show(name = "dist"): Promise<void> {
  await page.goto(`${network.url}/${name}/index.html`);
  await page.waitForFunction(() => "client" in window);
}

/** Upload a file of the page's making; whether the server has what the page had. */
function upload(size: number, name: string, password?: string) {
  return page.evaluate(
    async ([size, name, password]) => {
      const file = window.random(size, name);
      const phases: string[] = [];
      let sent = 0;
      const { done } = window.client.upload(file, {
        chunkSize: 1 << 20,
        password,
        onPhase: (phase) => phases.push(phase),
        onProgress: ({ phase, bytes }) => {
          if (phase === "sending" && bytes > 0 && bytes < size) sent += 1;
        },
      });
      const { file: stored, existing } = await done;
      return { same: stored.hash === (await window.digestOf(file)), existing, phases, sent };
    },
    [size, name, password] as const,
  );
}

describe("the client", () => {
  test.each(["source", "dist"])("built from %s hashes in a worker", async (name) => {
    await show(name);
    const worker = page.waitForEvent("worker");
    const result = await upload(6 * MB, `worker-${name}.bin`);
    expect(result).toMatchObject({ same: true, existing: false });
    expect(result.phases).toEqual(["hashing", "sending", "verifying"]);
    expect(result.sent).toBeGreaterThan(0);
    expect((await worker).url()).toContain("hash-worker");
  });

  test("hashes where no worker can be started", async () => {
    await show();
    let asked = 0;
    await page.route("**/*hash-worker*", async (route) => {
      asked += 1;
      await route.abort();
    });
    expect(await upload(3 * MB, "no-worker.bin")).toMatchObject({ same: true });
    expect(asked).toBe(1);
  });

  test.each<Fault>(["cut", "stall", "refuse", "lose answer", "damage", "swallow"])(
    "%s at a chunk",
    async (fault) => {
      await show();
      network.fault = first(fault, "/chunk/", 2);
      expect(await upload(3 * MB, `${fault}.bin`)).toMatchObject({ same: true, existing: false });
      expect(network.faults).toBe(2);
    },
  );

  test("opens what it encrypted", async () => {
    await show();
    expect(await upload(2 * MB, "sealed.bin", "päss 😀")).toMatchObject({ same: true });
    const text = await page.evaluate(async () => {
      const file = new File(["secret"], "sealed.txt");
      const stored = await window.client.upload(file, { password: "päss 😀" }).done;
      return (await window.client.files.open(stored.file.id, { password: "päss 😀" })).text();
    });
    expect(text).toBe("secret");
  });

  test("waits while there is no network", async () => {
    await show();
    let offline: Promise<void> | null = null;
    network.fault = ({ path }) => {
      if (path.endsWith("/2")) offline ??= context.setOffline(true);
      return null;
    };
    const uploading = upload(5 * MB, "offline.bin");
    await expect.poll(() => offline, { timeout: 30_000 }).not.toBeNull();
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await context.setOffline(false);
    expect(await uploading).toMatchObject({ same: true });
  });
});

describe("Uppy", () => {
  test("runs the example of the README", async () => {
    await show();
    const told = page.waitForEvent("console");
    const hash = await page.evaluate(async () => {
      const { uppy } = await window.readme();
      const data = window.random(1000, "readme.bin");
      uppy.addFile({ name: "readme.bin", data });
      const result = await uppy.upload();
      return result?.successful?.[0]?.uploadURL;
    });
    expect((await told).text()).toContain(`readme.bin ${hash}`);
  });

  test("uploads, and tells what came of it", async () => {
    await show();
    const told = await page.evaluate(async () => {
      const uppy = window.newUppy("uploads");
      const events: string[] = [];
      const note = (name: string) => () => events.at(-1) === name || events.push(name);
      uppy.on("upload-start", note("upload-start"));
      uppy.on("preprocess-progress", note("preprocess-progress"));
      uppy.on("upload-progress", note("upload-progress"));
      uppy.on("upload-success", note("upload-success"));
      const data = window.random(4 << 20, "uppy.bin");
      uppy.addFile({ name: "uppy.bin", type: "application/x-uppy", data });
      const result = await uppy.upload();
      const [file] = result?.successful ?? [];
      const stored = file?.response?.body?.file;
      return {
        events,
        same: stored?.hash === (await window.digestOf(data)),
        name: stored?.name,
        type: stored?.mime_type,
        url: file?.uploadURL,
        id: stored?.id,
        total: uppy.getState().totalProgress,
        capabilities: uppy.getState().capabilities,
      };
    });
    const events = ["upload-start", "preprocess-progress", "upload-progress", "upload-success"];
    expect(told).toMatchObject({
      events,
      same: true,
      name: "uppy.bin",
      type: "application/x-uppy",
    });
    expect(told.url).toBe(`/api/files/${told.id}`);
    expect(told.capabilities).toMatchObject({
      resumableUploads: true,
      individualCancellation: true,
    });
  });

  test("pauses, resumes, and removes", async () => {
    await show();
    const told = await page.evaluate(async () => {
      const uppy = window.newUppy("pauses");
      const [kept, gone] = ["kept.bin", "gone.bin"].map((name) =>
        uppy.addFile({ name, data: window.random(5 << 20, name) }),
      );
      let paused = false;
      uppy.on("upload-progress", (file, { bytesUploaded }) => {
        if (paused || bytesUploaded < 2 << 20 || file?.id !== kept) return;
        paused = true;
        uppy.pauseAll();
        setTimeout(() => {
          uppy.removeFile(gone ?? "");
          uppy.resumeAll();
        }, 500);
      });
      const result = await uppy.upload();
      return { paused, names: result?.successful?.map(({ name }) => name) };
    });
    expect(told).toEqual({ paused: true, names: ["kept.bin"] });
    const tasks = () =>
      page.evaluate(() =>
        window.client.request<unknown[]>("GET", "/api/files/upload/tasks", {
          query: { status: "in_progress" },
        }),
      );
    await expect.poll(tasks).toEqual([]);
  });

  test("frees what a file left that failed and was removed", async () => {
    await show();
    network.fault = ({ path }) => (path.includes("/complete/") ? "refuse" : null);
    const tasks = await page.evaluate(async () => {
      const open = () =>
        window.client.request<unknown[]>("GET", "/api/files/upload/tasks", {
          query: { status: "in_progress" },
        });
      const uppy = window.newUppy("frees");
      uppy.getPlugin("Upwell")?.setOptions({ patience: 0 });
      const id = uppy.addFile({ name: "frees.bin", data: window.random(2 << 20, "frees.bin") });
      await uppy.upload();
      const before = (await open()).length;
      uppy.removeFile(id);
      for (let tries = 0; tries < 50 && (await open()).length > 0; tries += 1) {
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      return { before, after: (await open()).length };
    });
    expect(tasks).toEqual({ before: 1, after: 0 });
  });

  test("retries what failed", async () => {
    await show();
    const told = await page.evaluate(async () => {
      const uppy = window.newUppy("retries");
      uppy.getPlugin("Upwell")?.setOptions({ poolId: "00000000-0000-4000-8000-0000000000ff" });
      uppy.addFile({ name: "retry.bin", data: window.random(2 << 20, "retry.bin") });
      const failed = await uppy.upload();
      uppy.getPlugin("Upwell")?.setOptions({ poolId: undefined });
      const retried = await uppy.retryAll();
      const response = failed?.failed?.[0]?.response;
      return { status: response?.status, body: response?.body, done: retried?.successful?.length };
    });
    expect(told).toMatchObject({ status: 404, body: { code: "POOL_NOT_FOUND" }, done: 1 });
  });

  test("goes on after the page was loaded again, without reading the file again", async () => {
    await show();
    network.fault = ({ path }) => (/\/chunk\/.*\/[5-9]$/.test(path) ? "stall" : null);
    await page.evaluate(() => {
      const uppy = window.newUppy("restored");
      uppy.addFile({ name: "restored.bin", data: window.random(8 << 20, "restored.bin") });
      void uppy.upload();
    });
    await expect.poll(() => network.count("/5", "PUT"), { timeout: 30_000 }).toBeGreaterThan(0);
    await page.waitForTimeout(1500); // Golden Retriever saves twice a second
    network.reset();
    await show();
    const told = await page.evaluate(async () => {
      const uppy = window.newUppy("restored");
      const events: string[] = [];
      uppy.on("preprocess-progress", () => events.push("hashed"));
      await new Promise<void>((resolve) => uppy.on("restored", () => resolve()));
      const done = new Promise<string>((resolve, reject) => {
        uppy.on("upload-success", (_, { body }) => resolve(body?.file.hash ?? ""));
        uppy.on("upload-error", (_, error) => reject(error));
      });
      uppy.emit("restore-confirmed");
      const same = (await done) === (await window.digestOf(window.random(8 << 20, "restored.bin")));
      return { events, same };
    });
    expect(told).toEqual({ events: [], same: true });
    expect(network.count("/chunk/")).toBe(3);
  });
});
