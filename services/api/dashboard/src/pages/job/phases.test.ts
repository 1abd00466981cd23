import { expect, test } from "vitest";

import type { JobEvent } from "../../api/types";
import { thinMarks, spansOf, stepsOf, timesOf, totals } from "./phases";

function event(type: string, time: number, data: Record<string, unknown>): JobEvent {
  return { id: `evt_${time}`, object: "job.event", job_id: "job_1", attempt: 1, type, created_at: time, time, data };
}

test("a phase lasts until the next one, and no phase runs between attempts", () => {
  const spans = spansOf([
    event("phase", 10, { phase: "rollout", stage: "rl" }),
    event("phase", 14, { phase: "train", stage: "rl" }),
    event("attempt", 15, { state: "failed" }),
    event("phase", 25, { phase: "rollout", stage: "rl" }),
  ], 31);
  expect(spans.map((span) => [span.phase, span.start, span.end])).toEqual([["rollout", 10, 14], ["train", 14, 15], ["rollout", 25, 31]]);
  expect(totals(spans)).toEqual([{ phase: "rollout", seconds: 10 }, { phase: "train", seconds: 1 }]);
});

test("wall time is interpolated linearly between known steps", () => {
  const seconds = timesOf([event("progress", 110, { step: 0 }), event("progress", 130, { step: 10 })], 100);
  expect([0, 5, 10, 12].map(seconds)).toEqual([10, 20, 30, 30]);
});

test("steps within the window are marked without overlapping labels", () => {
  const events = [0, 1, 2, 3, 4, 5].map((step) => event("progress", 100 + step * 2, { step }));
  const marks = stepsOf(events, 101, 109);
  expect(marks.map((mark) => mark.step)).toEqual([1, 2, 3, 4]);
  expect(thinMarks(marks, 4).map((mark) => mark.step)).toEqual([1, 3]);
});
