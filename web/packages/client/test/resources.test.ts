/** The typed calls, against a real server; downloads over a network that fails. */

import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { ApiError, Client, type CloudFile, ContentMismatch, TargetExists } from "@upwell/client";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

import { first, Network, random, Server } from "./harness.ts";

let server: Server;
let network: Network;
let client: Client;

beforeAll(async () => {
  server = await Server.start();
  network = await Network.start(server.url);
  client = new Client({ server: network.url, token: server.token });
}, 90_000);

afterAll(async () => {
  await network?.stop();
  await server?.stop();
});

afterEach(() => network.reset());

async function stored(name: string, content = random(1000), password?: string): Promise<CloudFile> {
  return (await client.upload(new Blob([content]), { name, password }).done).file;
}

describe("files", () => {
  test("are listed, named, described and deleted", async () => {
    const one = await stored("one.txt");
    const two = await stored("two.txt");
    const listed = await client.files.list({ take: 1 });
    expect(listed.items.map(({ id }) => id)).toEqual([two.id]);
    expect(listed.total).toBeGreaterThanOrEqual(2);

    expect((await client.files.rename(one.id, "ein s.txt")).name).toBe("ein s.txt");
    expect((await client.files.setMeta(one.id, { a: 1 })).user_meta).toEqual({ a: 1 });
    expect((await client.files.setMarks(one.id, ["nsfw"])).sensitive_marks).toEqual(["nsfw"]);
    expect(await client.files.deleteAll([two.id, "0".repeat(32)])).toEqual([two.id]);
    expect(await client.files.delete(one.id)).toBeUndefined();
    await expect(client.files.info(one.id)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });

  test("come back from the recycle bin", async () => {
    const pool = await client.request<{ id: string }>("POST", "/api/pools", {
      json: { name: "Bin", enable_recycle: true },
    });
    const { done } = client.upload(new Blob(["x"]), { name: "x", poolId: pool.id });
    const { file } = await done;
    await client.files.delete(file.id);
    expect((await client.files.recycled()).items.map(({ id }) => id)).toEqual([file.id]);
    expect((await client.files.restore(file.id)).is_marked_recycle).toBe(false);
  });

  test("have addresses", () => {
    expect(client.files.url("abc")).toBe(`${network.url}/api/files/abc`);
    expect(client.files.url("a/b", { thumbnail: true, download: false })).toBe(
      `${network.url}/api/files/a%2Fb?thumbnail=true`,
    );
  });

  test("are read in part, and with their password", async () => {
    const file = await stored("sealed", new TextEncoder().encode("0123456789"), "pä");
    const opened = await client.files.open(file.id, { password: "pä", range: [2, 4] });
    expect(await opened.text()).toBe("234");
    await expect(client.files.open(file.id)).rejects.toMatchObject({ code: "PASSWORD_REQUIRED" });
  });
});

test("a list is walked while its rows come and go", async () => {
  const made: string[] = [];
  for (const name of ["walk 1", "walk 2", "walk 3", "walk 4", "walk 5"]) {
    made.push((await stored(name)).id);
  }
  const seen: string[] = [];
  for await (const { id } of client.files.all({ search: "walk", take: 2 })) {
    seen.push(id);
    await stored(`walk ${seen.length} more`);
    await client.files.delete(id);
  }
  expect(seen).toEqual(made.toReversed());
});

test("bundles and links", async () => {
  const file = await stored("shared.txt");
  const bundle = await client.bundles.create({ name: "B", passcode: "sesame", description: "d" });
  expect(bundle.has_passcode).toBe(true);
  expect((await client.bundles.add(bundle.id, file.id)).bundle_id).toBe(bundle.id);
  expect((await client.bundles.files(bundle.id)).total).toBe(1);
  const changed = await client.bundles.update(bundle.id, { passcode: null, name: "C" });
  expect(changed).toMatchObject({ name: "C", has_passcode: false, description: "d" });
  expect((await client.bundles.remove(file.id)).bundle_id).toBeNull();
  expect((await client.bundles.list()).items.map(({ id }) => id)).toContain(bundle.id);
  await client.bundles.delete(bundle.id);
  await expect(client.bundles.info(bundle.id)).rejects.toBeInstanceOf(ApiError);

  const link = await client.links.create(file.id, { expiresIn: 60, maxDownloads: 2 });
  expect((await fetch(link.url)).status).toBe(200);
  expect((await client.links.list(file.id)).map(({ id }) => id)).toEqual([link.id]);
  await client.links.revoke(link.id);
  expect((await fetch(link.url)).status).toBe(404);
});

test("usage and quota", async () => {
  const usage = await client.usage();
  expect(usage.total_bytes).toBe(usage.stored_bytes + usage.reserved_bytes);
  expect(usage.unsent_bytes).toBeLessThanOrEqual(usage.reserved_bytes);
  expect(usage.open_uploads).toBeGreaterThanOrEqual(0);
  expect(await client.quota()).toMatchObject({
    quota: null,
    available: null,
    reserved: usage.reserved_bytes,
    max_open_uploads: 200,
    max_unsent_bytes: 32 * 2 ** 30,
  });
});

test("a client without an address says what it needs", () => {
  expect(() => new Client()).toThrow(/address of the server/);
  expect(() => new Client({ server: "files.example.org" })).toThrow(/address of the server/);
});

describe("a download", () => {
  const target = (name: string) => join(server.folder, name);

  test("goes on where it was cut, and leaves nothing behind", async () => {
    const content = random(3 << 20);
    const file = await stored("cut.bin", content);
    network.fault = ({ path }) => (path.endsWith("download=true") ? "cut answer" : null);
    setTimeout(() => network.reset(), 1500);
    await client.files.download(file.id, target("cut.bin"));
    expect(new Uint8Array(readFileSync(target("cut.bin")))).toEqual(content);
    expect(existsSync(target(`cut.bin.${file.id}.part`))).toBe(false);
  });

  test("goes on from what an earlier run left", async () => {
    const content = random(1 << 20);
    const file = await stored("left.bin", content);
    writeFileSync(target(`left.bin.${file.id}.part`), content.subarray(0, 1 << 19));
    const told: number[] = [];
    const onProgress = ({ bytes }: { bytes: number }) => told.push(bytes);
    await client.files.download(file.id, target("left.bin"), { onProgress });
    expect(told[0]).toBe(1 << 19);
    expect(new Uint8Array(readFileSync(target("left.bin")))).toEqual(content);
  });

  test("of which nothing comes, though the answer is well, is given up", async () => {
    const file = await stored("nothing.bin");
    network.fault = ({ path }) => (path.endsWith("download=true") ? "swallow" : null);
    const nothing = client.files.download(file.id, target("nothing.bin"), { patience: 0 });
    await expect(nothing).rejects.toMatchObject({ code: "CONNECTION_FAILED" });
  });

  test("that is not the file is thrown away", async () => {
    const file = await stored("wrong.bin", random(1 << 20));
    writeFileSync(target(`wrong.bin.${file.id}.part`), random(1 << 19));
    const download = () => client.files.download(file.id, target("wrong.bin"));
    await expect(download()).rejects.toBeInstanceOf(ContentMismatch);
    expect(existsSync(target("wrong.bin"))).toBe(false);
    await download();
    expect(statSync(target("wrong.bin")).size).toBe(1 << 20);
  });

  test("replaces nothing unless it is told to", async () => {
    const file = await stored("there.bin");
    writeFileSync(target("there.bin"), "mine");
    const again = client.files.download(file.id, target("there.bin"));
    await expect(again).rejects.toBeInstanceOf(TargetExists);
    await client.files.download(file.id, target("there.bin"), { overwrite: true });
    expect(statSync(target("there.bin")).size).toBe(1000);
  });

  test("opens what is encrypted", async () => {
    const content = random(5000);
    const file = await stored("sealed.bin", content, "sésame");
    await client.files.download(file.id, target("sealed.bin"), { password: "sésame" });
    expect(new Uint8Array(readFileSync(target("sealed.bin")))).toEqual(content);
  });

  test("waits for a gateway", async () => {
    const file = await stored("wait.bin");
    network.fault = first("refuse", "download=true");
    await client.files.download(file.id, target("wait.bin"));
    expect(network.count("download=true")).toBe(2);
  });
});
