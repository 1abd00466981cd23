// @vitest-environment jsdom
import { act, cleanup, renderHook } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { useQuery } from "./use-query";

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => {
  cleanup();
  vi.useRealTimers();
});

/** A server whose answers are numbered and take a while. */
function server(milliseconds: number) {
  let asked = 0;
  return vi.fn((signal: AbortSignal) => new Promise<number>((resolve, reject) => {
    const answer = ++asked;
    setTimeout(() => resolve(answer), milliseconds);
    signal.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
  }));
}

const pass = (milliseconds: number) => act(() => vi.advanceTimersByTimeAsync(milliseconds));

test("news reads again without losing what is there", async () => {
  const load = server(100);
  const { result, rerender } = renderHook(({ news }) => useQuery("a", load, { news }), { initialProps: { news: 0 } });
  await pass(100);
  rerender({ news: 1 });
  expect(result.current.data).toBe(1);
  await pass(1000);
  expect(result.current.data).toBe(2);
  expect(load).toHaveBeenCalledTimes(2);
});

test("news that comes faster than answers starves none of them", async () => {
  const load = server(500);
  const { result, rerender } = renderHook(({ news }) => useQuery("a", load, { news }), { initialProps: { news: 0 } });
  for (let news = 1; news <= 30; news++) {
    rerender({ news });
    await pass(100);
  }
  expect(result.current.data).toBeGreaterThanOrEqual(3);
  expect(load.mock.calls.every(([signal]) => !signal.aborted)).toBe(true);
});

test("another key drops what was there, unless it is to stay", async () => {
  const load = server(100);
  const drops = renderHook(({ key }) => useQuery(key, load), { initialProps: { key: "a" } });
  const keeps = renderHook(({ key }) => useQuery(key, load, { keeps: true }), { initialProps: { key: "a" } });
  await pass(100);
  drops.rerender({ key: "b" });
  keeps.rerender({ key: "b" });
  expect([drops.result.current.data, keeps.result.current.data]).toEqual([undefined, 2]);
  await pass(100);
  expect([drops.result.current.data, keeps.result.current.data]).toEqual([3, 4]);
});

test("a page that nobody sees reads once, and again when somebody looks", async () => {
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
