import { expect, test } from "vitest";

import { bytes, duration, number, percent, relative } from "./format";
import { matchPath } from "./router";

test("durations use the two units that matter", () => {
  expect([0.25, 9.96, 42, 200, 7500, 90_000].map(duration)).toEqual(["250 ms", "10.0 s", "42 s", "3 min 20 s", "2 h 5 min", "1 d 1 h"]);
});

test("numbers keep what can be read", () => {
  expect([0, 1234, 0.123456, 0.00001234, 123.456, 45_678.9].map(number)).toEqual(["0", "1,234", "0.123", "1.2e-5", "123.5", "45.7K"]);
  expect([number(null), percent(undefined)]).toEqual(["–", "–"]);
});

test("bytes are in binary units", () => {
  expect([0, 900, 1536, 5 * 2 ** 30].map(bytes)).toEqual(["0 B", "900 B", "1.5 KiB", "5.0 GiB"]);
});

test("times are relative in both directions", () => {
  expect([relative(100, 102), relative(40, 100), relative(400, 100)]).toEqual(["now", "1 min ago", "in 5 min"]);
});

test("patterns of addresses name their parts", () => {
  expect(matchPath("/jobs/:id/:tab", "/jobs/job_1/events/")).toEqual({ id: "job_1", tab: "events" });
  expect(matchPath("/jobs/:id", "/jobs")).toBeNull();
});
