/** How many connections there are, and how long is waited. */

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import { Deadline } from "../src/deadline.ts";
import { ApiError, ConnectionFailed, PatienceOver } from "../src/errors.ts";
import { delayOf, Retry } from "../src/retry.ts";
import { Connections, Slots } from "../src/slots.ts";

const never = new AbortController().signal;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

describe("slots", () => {
  test("are taken in turn, and given back", async () => {
    const slots = new Slots(1);
    const order: number[] = [];
    const giveBack = await slots.take(never);
    const others = [1, 2].map(async (number) => {
      const done = await slots.take(never);
      order.push(number);
      done();
    });
    expect(slots.contended).toBe(true);
    giveBack();
    await Promise.all(others);
    expect(order).toEqual([1, 2]);
  });

  test("are not kept by those who left", async () => {
    const slots = new Slots(1);
    const giveBack = await slots.take(never);
    const stop = new AbortController();
    const left = slots.take(stop.signal);
    const next = slots.take(never);
    stop.abort(new Error("left"));
    await expect(left).rejects.toThrow("left");
    giveBack();
    await next;
  });
});

describe("connections", () => {
  /** Move bytes for a while, `rate(limit)` of them a millisecond, with others waiting. */
  async function run(connections: Connections, rounds: number, rate: (limit: number) => number) {
    const busy = Array.from({ length: 20 }, () => connections.slots.take(never));
    for (let round = 0; round < rounds; round += 1) {
      const { limit } = connections.slots;
      vi.advanceTimersByTime(400);
      const size = (400 * rate(limit)) / (2 * limit) - (64 << 10);
      for (let each = 0; each < 2 * limit; each += 1) connections.succeeded(size);
    }
    return busy;
  }

  test("become more while that moves more bytes", async () => {
    const connections = new Connections(6);
    void run(connections, 10, (limit) => 10_000 * limit);
    expect(connections.slots.limit).toBe(6);
  });

  test("become no more than help", async () => {
    const connections = new Connections(6);
    void run(connections, 10, (limit) => 10_000 * Math.min(limit, 3));
    expect(connections.slots.limit).toBe(3);
  });

  test("are halved when they fail, once for what fails together", () => {
    const connections = new Connections(6);
    void run(connections, 10, (limit) => 10_000 * limit);
    connections.failed();
    connections.failed();
    expect(connections.slots.limit).toBe(3);
    vi.advanceTimersByTime(2000);
    for (let each = 0; each < 3; each += 1) {
      connections.failed();
      vi.advanceTimersByTime(2000);
    }
    expect(connections.slots.limit).toBe(1);
  });

  test("stay as many as were asked for", () => {
    const connections = new Connections(3, true);
    void run(connections, 10, (limit) => 10_000 * limit);
    connections.failed();
    expect(connections.slots.limit).toBe(3);
  });
});

describe("waiting", () => {
  const refusal = { code: "X", message: "No.", meta: {}, errors: {}, traceId: null };
  const lost = new ConnectionFailed("Lost.");

  test("doubles up to half a minute, as the server asks, and longer for space", () => {
    expect(delayOf(0, lost)).toBeLessThanOrEqual(500);
    expect(delayOf(3, lost)).toBeGreaterThanOrEqual(2000);
    expect(delayOf(99, lost)).toBeLessThanOrEqual(30_000);
    expect(delayOf(0, new ApiError({ ...refusal, status: 429, retryAfter: 7 }))).toBe(7000);
    expect(delayOf(0, new ApiError({ ...refusal, status: 507, retryAfter: null }))).toBe(15_000);
  });

  test("ends with the patience, which a success renews", async () => {
    const waits: (number | null)[] = [];
    const retry = new Retry(3000, (wait) => waits.push(wait?.delay ?? null));
    let failures = 2;
    const attempt = async () => {
      if (failures-- > 0) throw lost;
      return "done";
    };
    const once = retry.call(attempt, never);
    await vi.runAllTimersAsync();
    expect(await once).toBe("done");
    expect(waits.at(-1)).toBeNull();

    failures = 100;
    const over = retry.call(attempt, never);
    const told = expect(over).rejects.toBeInstanceOf(PatienceOver);
    await vi.runAllTimersAsync();
    await told;
  });

  test("is not done for what does not pass", async () => {
    const refused = new ApiError({ ...refusal, status: 403, retryAfter: null });
    const attempt = vi.fn(() => Promise.reject(refused));
    await expect(new Retry().call(attempt, never)).rejects.toBe(refused);
    expect(attempt).toHaveBeenCalledTimes(1);
  });
});

test("a deadline that has ended does not begin again", async () => {
  const deadline = new Deadline(1000);
  deadline.end();
  deadline.set(1000); // by a body of which a last piece was read late
  expect(vi.getTimerCount()).toBe(0);
});
