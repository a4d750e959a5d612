/** Uploads from Node to a real server, over a network that fails. */

import { createHash } from "node:crypto";
import { getEventListeners } from "node:events";
import { existsSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import {
  Cancelled,
  Client,
  type CloudFile,
  FileChanged,
  PatienceOver,
  type Phase,
  type Pool,
  type Progress,
  type Upload,
  type UploadOptions,
} from "@upwell/client";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

import { type Fault, first, Network, random, Server } from "./harness.ts";

const MB = 1 << 20;

let server: Server;
let network: Network;
let client: Client;

beforeAll(async () => {
  server = await Server.start();
  network = await Network.start(server.url);
  client = new Client({ server: network.url, token: server.token, stall: 1000 });
}, 90_000);

afterAll(async () => {
  await network?.stop();
  await server?.stop();
});

afterEach(() => network.reset());

function upload(content: BlobPart, options: UploadOptions = {}) {
  return client.upload(new Blob([content]), { name: "f.bin", chunkSize: MB, ...options });
}

async function stored(id: string): Promise<Uint8Array> {
  return new Uint8Array(await (await client.files.open(id)).arrayBuffer());
}

async function openTasks(): Promise<unknown[]> {
  return await client.request("GET", "/api/files/upload/tasks", {
    query: { status: "in_progress" },
  });
}

describe("a file", () => {
  test("is hashed, sent and verified, and tells how far it is", async () => {
    const content = random(5 * MB + 7);
    const told: Progress[] = [];
    const phases: Phase[] = [];
    const { file, existing } = await upload(content, {
      name: "héllo – 😀.bin",
      type: "application/x-test",
      onProgress: (progress) => told.push(progress),
      onPhase: (phase) => phases.push(phase),
    }).done;

    expect(existing).toBe(false);
    expect(file.name).toBe("héllo – 😀.bin");
    expect(file.mime_type).toBe("application/x-test");
    expect(file.hash).toBe(createHash("sha256").update(content).digest("hex"));
    expect(await stored(file.id)).toEqual(content);
    expect(phases).toEqual(["hashing", "sending", "verifying"]);
    const sent = told.filter(({ phase }) => phase === "sending").map(({ bytes }) => bytes);
    expect(sent[0]).toBe(0);
    expect(sent.at(-1)).toBe(content.length);
    expect(sent).toEqual([...sent].sort((a, b) => a - b));
  });

  test("that the account holds is there at once", async () => {
    const content = random(2 * MB);
    const before = await upload(content).done;
    network.reset();
    const again = await upload(content, { name: "other.bin" }).done;

    expect(again.existing).toBe(true);
    expect(again.file.id).not.toBe(before.file.id);
    expect(network.count("/chunk/")).toBe(0);
  });

  test("that is empty, or exactly some chunks long", async () => {
    for (const size of [0, 1, MB, 2 * MB]) {
      const content = random(size);
      const { file } = await upload(content).done;
      expect(await stored(file.id)).toEqual(content);
    }
  });

  test("that is small goes in one request", async () => {
    const contents = Array.from({ length: 40 }, (_, index) => random(1000 + index));
    const uploads = contents.map((content, index) => upload(content, { name: `${index}.bin` }));
    const files = (await Promise.all(uploads.map(({ done }) => done))).map(({ file }) => file);

    expect(new Set(files.map(({ id }) => id)).size).toBe(40);
    expect(await stored(files[7]?.id ?? "")).toEqual(contents[7]);
    expect(network.count("/upload/")).toBe(40);
  });

  test("expires, and goes where it is told to", async () => {
    const bundle = await client.bundles.create({ name: "Summer" });
    const [pool] = await client.pools.list();
    const expiresAt = new Date(Date.now() + 3_600_000);
    for (const size of [10, 2 * MB]) {
      const options = { bundleId: bundle.id, poolId: pool?.id, expiresAt };
      const { file } = await upload(random(size), options).done;
      expect(file.bundle_id).toBe(bundle.id);
      expect(file.pool_id).toBe(pool?.id);
      expect(new Date(file.expired_at ?? 0)).toEqual(expiresAt);
    }
  });

  test("expires after a time that the server counts", async () => {
    const until = async () => {
      const { items } = await client.files.list({ take: 1 });
      return Date.parse(items[0]?.expired_at ?? "") - Date.parse(items[0]?.created_at ?? "");
    };
    for (const size of [10, 2 * MB]) {
      await upload(random(size), { expiresIn: 1800 }).done;
      // From create to the end of the upload.
      expect(await until()).toBeLessThanOrEqual(1_800_000);
      expect(await until()).toBeGreaterThan(1_700_000);
    }
    const bundle = await client.bundles.create({ name: "Summer", expiresIn: 60 });
    const later = await client.bundles.update(bundle.id, { expiresIn: 3600 });
    const more = Date.parse(later.expired_at ?? "") - Date.parse(bundle.expired_at ?? "");
    expect(more).toBeGreaterThanOrEqual(3_540_000);
  });

  test("keeps its name, whatever is in it", async () => {
    for (const name of ["a\nb", "a\r\nb", "a\rb", '"\\%0A\u2028.txt']) {
      for (const size of [10, 2 * MB]) {
        expect((await upload(random(size), { name }).done).file.name).toBe(name);
      }
    }
  });

  test("that the account holds under another digest is there too", async () => {
    const content = random(5);
    const form = new FormData();
    form.append("hash", createHash("md5").update(content).digest("hex"));
    form.append("file", new Blob([content]), "md5.bin");
    const headers = { Authorization: `Bearer ${server.token}` };
    const url = `${server.url}/api/files/upload/direct`;
    expect((await fetch(url, { method: "POST", headers, body: form })).status).toBe(200);
    const { file } = await upload(content, { name: "md5.bin", type: "application/octet-stream" })
      .done;
    expect(file.size).toBe(5);
  });
});

describe("over a bad network", () => {
  const faults: [Fault, string][] = [
    ["cut", "/chunk/"],
    ["stall", "/chunk/"],
    ["refuse", "/chunk/"],
    ["lose answer", "/chunk/"],
    ["damage", "/chunk/"],
    ["swallow", "/chunk/"],
    ["refuse", "/create"],
    ["lose answer", "/create"],
    ["refuse", "/resume/"],
    ["refuse", "/complete/"],
    ["lose answer", "/complete/"],
  ];
  test.each(faults)(
    "%s at %s",
    async (fault, part) => {
      const content = random(4 * MB + 1);
      network.fault = first(fault, part, 2);
      const { file, existing } = await upload(content).done;

      expect(await stored(file.id)).toEqual(content);
      expect(existing).toBe(false);
      expect(network.faults).toBe(2);
      expect(await openTasks()).toEqual([]);
    },
    60_000,
  );

  test.each<Fault>(["cut", "refuse", "lose answer", "damage"])(
    "%s of a direct upload makes one file",
    async (fault) => {
      const content = random(2000);
      network.fault = first(fault, "/direct");
      const { file } = await upload(content, { name: `${fault}.bin` }).done;

      expect(await stored(file.id)).toEqual(content);
      expect(network.faults).toBe(1);
      const { items } = await client.files.list({ take: 100 });
      expect(items.filter(({ name }) => name === `${fault}.bin`)).toHaveLength(1);
    },
    60_000,
  );

  test("damage of an encrypted upload, whose chunks cannot be replaced", async () => {
    const content = random(3 * MB);
    network.fault = first("damage", "/chunk/");
    const { file } = await upload(content, { password: "sésame" }).done;

    const opened = await client.files.open(file.id, { password: "sésame" });
    expect(new Uint8Array(await opened.arrayBuffer())).toEqual(content);
    expect(await openTasks()).toEqual([]);
  }, 60_000);

  test("the server is killed, and started again", async () => {
    const content = random(8 * MB);
    let killed: Promise<void> | null = null;
    const { file } = await upload(content, {
      onProgress: ({ phase, bytes }) => {
        if (phase === "sending" && bytes > 2 * MB) {
          killed ??= server.kill().then(() => server.start());
        }
      },
    }).done;
    await killed;

    expect(killed).not.toBeNull();
    expect(await stored(file.id)).toEqual(content);
  }, 120_000);

  test("whoever has no patience is told why", async () => {
    network.fault = () => "refuse";
    const waits: unknown[] = [];
    const options = { patience: 1000, onWait: (wait: unknown) => waits.push(wait) };
    await expect(upload(random(10), options).done).rejects.toBeInstanceOf(PatienceOver);
    expect(waits.length).toBeGreaterThan(0);
  });

  test("what does not pass is not tried again", async () => {
    const stranger = new Client({ server: network.url, token: "nobody" });
    const refused = stranger.upload(new Blob(["x"]), { name: "x" }).done;
    await expect(refused).rejects.toMatchObject({ code: "TOKEN_INVALID", status: 401 });
    expect(network.count("/direct")).toBe(1);
  });
});

describe("whoever stops", () => {
  /** An upload that was paused in the middle, and what it said to save. */
  async function paused(content: BlobPart | File, options: UploadOptions = {}) {
    const phases: Phase[] = [];
    const source = content instanceof File ? content : new Blob([content]);
    // One connection: what is beyond the second chunk, all but one of them were acknowledged.
    const slow = new Client({ server: network.url, token: server.token, connections: 1 });
    let upload!: Upload;
    let reachedOnce = false;
    const reached = new Promise<void>((resolve) => {
      upload = slow.upload(source, {
        name: "f.bin",
        chunkSize: MB,
        onPhase: (phase) => phases.push(phase),
        onProgress: ({ phase, bytes }) => {
          if (reachedOnce || phase !== "sending" || bytes <= 2 * MB) return;
          reachedOnce = true;
          upload.pause();
          resolve();
        },
        ...options,
      });
    });
    await reached;
    return { upload, phases };
  }

  test("goes on where it was", async () => {
    const content = random(8 * MB);
    const { upload, phases } = await paused(content);
    expect(upload.paused).toBe(true);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const sent = network.count("/chunk/");
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(network.count("/chunk/")).toBe(sent);

    upload.resume();
    const { file, existing } = await upload.done;
    expect(await stored(file.id)).toEqual(content);
    expect(existing).toBe(false);
    expect(phases.filter((phase) => phase === "hashing")).toHaveLength(1);
  });

  test("goes on in another process, which does not hash again", async () => {
    const file = new File([random(8 * MB)], "f.bin", { lastModified: 1_700_000_000_000 });
    const { upload } = await paused(file);
    const token = upload.token ?? "";
    await new Promise((resolve) => setTimeout(resolve, 300));
    network.reset();

    const phases: Phase[] = [];
    const again = new Client({ server: network.url, token: server.token });
    const onPhase = (phase: Phase) => phases.push(phase);
    const { existing } = await again.upload(file, { token, chunkSize: MB, onPhase }).done;
    expect(existing).toBe(false);
    expect(phases).toEqual(["sending", "verifying"]);
    expect(network.count("/chunk/")).toBeLessThan(8);
  });

  test("goes on with the options that are said last", async () => {
    const source = new File([random(8 * MB)], "f.bin", { lastModified: 1_700_000_000_000 });
    const old = { expiresIn: 3600, type: "a/b", name: "old.bin" };
    const { upload } = await paused(source, old);
    const token = upload.token ?? "";
    network.reset();
    const bundle = await client.bundles.create({ name: "b" });
    const now = { token, chunkSize: MB, name: "new.png", type: "image/png", bundleId: bundle.id };
    const pool = await client.request<Pool>("POST", "/api/pools", { json: { name: "other" } });
    const moved = client.upload(source, { ...now, poolId: pool.id }).done;
    await expect(moved).rejects.toMatchObject({
      code: "VALIDATION_FAILED",
      message: expect.stringContaining("the upload began in pool"),
    });
    const { file } = await client.upload(source, now).done;
    expect([file.name, file.mime_type, file.bundle_id, file.expired_at]).toEqual([
      "new.png",
      "image/png",
      bundle.id,
      null,
    ]);
    expect(network.count("/chunk/")).toBeLessThan(8);
    expect(await openTasks()).toEqual([]);
  });

  test("says so, and its bytes are freed", async () => {
    const { upload } = await paused(random(8 * MB));
    await upload.cancel();
    await expect(upload.done).rejects.toBeInstanceOf(Cancelled);
    expect(await openTasks()).toEqual([]);
  });

  test("may say so before anything was sent, or by a signal", async () => {
    const now = upload(random(3 * MB));
    await now.cancel();
    const stop = new AbortController();
    const signalled = upload(random(3 * MB), {
      signal: stop.signal,
      onPhase: (phase) => phase === "sending" && stop.abort(),
    });
    for (const { done } of [now, signalled]) await expect(done).rejects.toBeInstanceOf(Cancelled);
    await expect.poll(openTasks).toEqual([]);
  });

  test("by a signal may have said so before it began, and is not listened to for ever", async () => {
    const { signal } = new AbortController();
    const never = upload(random(9), { signal: AbortSignal.abort() });
    await expect(never.done).rejects.toBeInstanceOf(Cancelled);
    expect(network.requests).toEqual([]);
    await upload(random(9), { signal }).done;
    expect(getEventListeners(signal, "abort")).toEqual([]);
  });

  test("while the file is being opened is all that is told", async () => {
    const path = join(server.folder, "cancelled.bin");
    writeFileSync(path, random(9));
    const unheard: unknown[] = [];
    process.on("unhandledRejection", (error) => unheard.push(error));
    const opening = client.upload(path);
    await Promise.resolve();
    await opening.cancel();
    await expect(opening.done).rejects.toBeInstanceOf(Cancelled);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(unheard).toEqual([]);
  });

  test("while an encrypted file is verified does not send it twice", async () => {
    let complete = "";
    const stopped = client.upload(new Blob([random(3 * MB)]), { name: "once.bin", password: "p" });
    network.fault = ({ path }) => {
      if (complete || !path.includes("/complete/")) return null;
      complete = path;
      stopped.pause();
      return "stall";
    };
    await expect.poll(() => complete, { timeout: 30_000 }).not.toBe("");
    const { id } = await client.request<CloudFile>("POST", complete);
    stopped.resume();
    const { file, existing } = await stopped.done;
    expect([file.id, existing]).toEqual([id, false]);
    expect((await client.files.list({ search: "once.bin" })).total).toBe(1);
  });

  describe("before an encrypted file was said to be there", () => {
    const named = (name: string) =>
      new File([random(3 * MB)], name, { lastModified: 1_700_000_000_000 });

    /** The token of an upload whose verification nobody heard of, and the id of its file. */
    async function unheard(source: File): Promise<{ token: string; id: string }> {
      let complete = "";
      const old = client.upload(source, { password: "p", chunkSize: MB });
      network.fault = ({ path }) => {
        if (complete || !path.includes("/complete/")) return null;
        complete = path;
        old.pause();
        return "stall";
      };
      await expect.poll(() => complete, { timeout: 30_000 }).not.toBe("");
      const { id } = await client.request<CloudFile>("POST", complete);
      network.reset();
      return { token: old.token ?? "", id };
    }

    test("does not send it twice from another page", async () => {
      const source = named("again.bin");
      const { token, id } = await unheard(source);
      const { file, existing } = await client.upload(source, { token, password: "p" }).done;
      expect([file.id, existing]).toEqual([id, false]);
      expect(network.count("/chunk/")).toBe(0);
      expect((await client.files.list({ search: "again.bin" })).total).toBe(1);
    });

    test("sends it with the options that are said now", async () => {
      const source = named("dated.bin");
      const { token, id } = await unheard(source);
      const { file } = await client.upload(source, { token, password: "p", expiresIn: 60 }).done;
      expect(file.id).not.toBe(id);
      expect(file.expired_at).not.toBeNull();
    });

    test("sends it under the password that is said now", async () => {
      const source = named("another.bin");
      const { token, id } = await unheard(source);
      const { file } = await client.upload(source, { token, password: "q" }).done;
      expect(file.id).not.toBe(id);
      const opened = await client.files.open(file.id, { password: "q" });
      expect(await opened.bytes()).toEqual(await source.bytes());
    });

    test("sends it when it was deleted meanwhile", async () => {
      const source = named("deleted.bin");
      const { token, id } = await unheard(source);
      await client.files.delete(id);
      const { file } = await client.upload(source, { token, password: "p" }).done;
      expect(file.id).not.toBe(id);
    });
  });

  test("may give up by the token alone", async () => {
    const { upload } = await paused(random(8 * MB));
    await client.discard(upload.token ?? "");
    expect(await openTasks()).toEqual([]);
  });

  test("an upload that was cancelled elsewhere begins anew", async () => {
    const content = random(6 * MB);
    const { upload } = await paused(content);
    await client.discard(upload.token ?? "");
    upload.resume();
    const { file } = await upload.done;
    expect(await stored(file.id)).toEqual(content);
  });
});

describe("a file on this machine", () => {
  test("is sent from its path", async () => {
    const path = join(server.folder, "from-path.bin");
    const content = random(2 * MB + 3);
    writeFileSync(path, content);
    const { file } = await client.upload(path).done;
    expect(file.name).toBe("from-path.bin");
    expect(await stored(file.id)).toEqual(content);
  });

  test("that does not tell its size is read", async () => {
    for (const path of ["/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"]) {
      if (!existsSync(path)) continue;
      const { file } = await client.upload(path).done;
      expect(await stored(file.id)).toEqual(new Uint8Array(readFileSync(path)));
    }
  });

  test("that is none is refused", async () => {
    await expect(client.upload("/dev/null").done).rejects.toMatchObject({
      message: expect.stringContaining("not a regular file"),
    });
  });

  test("that changes meanwhile is not sent", async () => {
    const path = join(server.folder, "changing.bin");
    writeFileSync(path, random(4 * MB));
    const upload = client.upload(path, {
      chunkSize: MB,
      onToken: () => {
        writeFileSync(path, random(4 * MB));
        utimesSync(path, 1, 1);
      },
    });
    await expect(upload.done).rejects.toBeInstanceOf(FileChanged);
  }, 30_000);

  test("that a token knows with other content is hashed again", async () => {
    const name = "same-name.bin";
    const lastModified = 1_700_000_000_000;
    const old = client.upload(new File([random(3 * MB)], name, { lastModified }), {
      chunkSize: MB,
      onPhase: (phase) => phase === "sending" && old.pause(),
    });
    await expect.poll(() => old.token).not.toBeNull();
    const content = random(3 * MB);
    const { file } = await client.upload(new File([content], name, { lastModified }), {
      chunkSize: MB,
      token: old.token ?? "",
    }).done;
    expect(await stored(file.id)).toEqual(content);
    await old.cancel();
  });

  test("that is not there is an error that names it", async () => {
    await expect(client.upload("/nowhere/x.bin").done).rejects.toMatchObject({
      code: "FILE_UNREADABLE",
      message: expect.stringContaining("/nowhere/x.bin"),
    });
  });
});

test("a token holds no password", async () => {
  const tokens: string[] = [];
  const options = { password: "correct horse", onToken: (token: string) => tokens.push(token) };
  await upload(random(MB + 1), options).done;
  expect(tokens.length).toBeGreaterThan(0);
  for (const token of tokens) expect(atob(token)).not.toContain("horse");
});

test("what is no token is refused", async () => {
  await expect(upload(random(10), { token: "x" }).done).rejects.toMatchObject({
    code: "UPLOAD_TOKEN_INVALID",
  });
  const elsewhere = btoa(JSON.stringify([1, "f", 1, 1, "0".repeat(64), "../0123"]));
  await expect(client.discard(elsewhere)).rejects.toMatchObject({ code: "UPLOAD_TOKEN_INVALID" });
});
