import { expect, test } from "vitest";

import type { Evaluation, Job } from "../../api/types";
import { pointsOf } from "./frontier-points";

function evaluation(id: string, accuracy: number, speed?: number, decoding?: object): Evaluation {
  const results = { accuracy, ...(speed === undefined ? {} : { tokens_per_step: speed }), ...(decoding ? { decoding } : {}) };
  return { id, object: "job.evaluation", created_at: 0, job_id: "job_1", attempt: 1, step: 5, stage: "rl", dataset: "validation", results };
}

const JOB = { id: "job_1", spec: { diffusion: { confidence_threshold: 0.9 } } } as unknown as Job;

test("the frontier has the points that no other beats in both accuracy and speed", () => {
  const points = pointsOf([evaluation("slow", 0.9, 1), evaluation("fast", 0.7, 3), evaluation("worse", 0.6, 2), evaluation("equal", 0.7, 3)], [JOB]);
  expect(points.filter((point) => point.isBest).map((point) => point.id)).toEqual(["slow", "fast", "equal"]);
});

test("an evaluation without a speed is no point", () => {
  expect(pointsOf([evaluation("a", 0.9)], [JOB])).toEqual([]);
});

test("a point is labelled with its own decoding, else with its job's", () => {
  const labels = pointsOf([evaluation("a", 0.9, 1), evaluation("b", 0.8, 2, { confidence_threshold: 0.5 })], [JOB]).map((point) => point.label);
  expect(labels).toEqual(["step 5 · rl · threshold 0.9", "step 5 · rl · threshold 0.5"]);
});
