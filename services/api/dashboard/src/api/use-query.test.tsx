// @vitest-environment jsdom
import { act, cleanup, renderHook } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { ApiError, UNREACHABLE } from "./client";
import { useQuery } from "./use-query";

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => {
  cleanup();
  vi.useRealTimers();
});

/** A server with numbered, delayed responses. */
function server(milliseconds: number) {
  let requests = 0;
  return vi.fn((signal: AbortSignal) => new Promise<number>((resolve, reject) => {
    const response = ++requests;
    setTimeout(() => resolve(response), milliseconds);
    signal.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
  }));
}

const pass = (milliseconds: number) => act(() => vi.advanceTimersByTimeAsync(milliseconds));

test("an update refetches and keeps the data until then", async () => {
  const load = server(100);
  const { result, rerender } = renderHook(({ updates }) => useQuery("a", load, { updates }), { initialProps: { updates: 0 } });
  await pass(100);
  rerender({ updates: 1 });
  expect(result.current.data).toBe(1);
  await pass(1000);
  expect(result.current.data).toBe(2);
  expect(load).toHaveBeenCalledTimes(2);
});

test("updates that arrive faster than responses do not starve the query", async () => {
  const load = server(500);
  const { result, rerender } = renderHook(({ updates }) => useQuery("a", load, { updates }), { initialProps: { updates: 0 } });
  for (let updates = 1; updates <= 30; updates++) {
    rerender({ updates });
    await pass(100);
  }
  expect(result.current.data).toBeGreaterThanOrEqual(3);
  expect(load.mock.calls.every(([signal]) => !signal.aborted)).toBe(true);
});

test("a new key drops the data unless it is to be kept", async () => {
  const load = server(100);
  const drops = renderHook(({ key }) => useQuery(key, load), { initialProps: { key: "a" } });
  const keeps = renderHook(({ key }) => useQuery(key, load, { keepsData: true }), { initialProps: { key: "a" } });
  await pass(100);
  drops.rerender({ key: "b" });
  keeps.rerender({ key: "b" });
  expect([drops.result.current.data, keeps.result.current.data]).toEqual([undefined, 2]);
  await pass(100);
  expect([drops.result.current.data, keeps.result.current.data]).toEqual([3, 4]);
});

test("an unreachable API is retried until it responds", async () => {
  const responses = [() => Promise.reject(new ApiError("Cannot reach the API.", 0, UNREACHABLE)), () => Promise.resolve(1)];
  const load = vi.fn(() => (responses.shift() ?? (() => Promise.resolve(2)))());
  const { result } = renderHook(() => useQuery("a", load));
  await pass(0);
  expect(result.current.error?.message).toBe("Cannot reach the API. Retrying …");
  await pass(10_000);
  expect([result.current.data, result.current.error]).toEqual([1, undefined]);
  expect(load).toHaveBeenCalledTimes(2);
});

test("a hidden page loads once, and again when it becomes visible", async () => {
  const hidden = vi.spyOn(document, "hidden", "get").mockReturnValue(true);
  const load = server(10);
  renderHook(() => useQuery("a", load, { every: 1000 }));
  await pass(5000);
  expect(load).toHaveBeenCalledTimes(1);
  hidden.mockReturnValue(false);
  document.dispatchEvent(new Event("visibilitychange"));
  await pass(0);
  expect(load).toHaveBeenCalledTimes(2);
});
