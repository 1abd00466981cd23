import { expect, test } from "vitest";

import type { Evaluation, Job } from "../../api/types";
import { curvesOf, pointsOf, settingOf } from "./frontier-points";

function evaluation(id: string, accuracy: number, speed?: number, decoding?: object): Evaluation {
  const results = { accuracy, ...(speed === undefined ? {} : { tokens_per_step: speed }), ...(decoding ? { decoding } : {}) };
  return { id, object: "job.evaluation", created_at: 0, job_id: "job_1", attempt: 1, step: 5, stage: "rl", dataset: "validation", results };
}

const JOB = { id: "job_1", spec: { diffusion: { confidence_threshold: 0.9 } } } as unknown as Job;

test("a point is on the frontier unless another point dominates it in accuracy and speed", () => {
  const points = pointsOf([evaluation("slow", 0.9, 1), evaluation("fast", 0.7, 3), evaluation("worse", 0.6, 2), evaluation("equal", 0.7, 3)], [JOB]);
  expect(points.filter((point) => point.isBest).map((point) => point.id)).toEqual(["slow", "fast", "equal"]);
});

test("an evaluation without a speed has no point", () => {
  expect(pointsOf([evaluation("a", 0.9)], [JOB])).toEqual([]);
});

test("thresholds and steps per block are two families, and each point is labelled with its value", () => {
  const job = { id: "job_1", spec: { diffusion: { unmasking_strategy: "low_confidence_dynamic", confidence_threshold: 0.9, denoising_steps: null } } } as unknown as Job;
  const measured = [
    evaluation("own", 0.9, 2),
    evaluation("loose", 0.7, 3, { confidence_threshold: 0.5 }),
    evaluation("two", 0.8, 2, { unmasking_strategy: "low_confidence_static", denoising_steps: 2 }),
    evaluation("four", 0.95, 1, { unmasking_strategy: "low_confidence_static", denoising_steps: 4 }),
  ];
  const points = pointsOf(measured, [job]);
  expect(points.map(({ family, setting }) => [family, setting])).toEqual([["threshold", "0.9"], ["threshold", "0.5"], ["steps", "2"], ["steps", "4"]]);
  expect(curvesOf(points).map((curve) => curve.map((point) => point.id))).toEqual([["own", "loose"], ["four", "two"]]);
  expect(settingOf(measured[2] as Evaluation, job)).toBe("low confidence static, 2 steps per block");
  expect(settingOf(measured[0] as Evaluation, job)).toBe("low confidence dynamic, threshold 0.9");
});

test("a point is labelled with its own decoding parameters, or else with those of its job", () => {
  const labels = pointsOf([evaluation("a", 0.9, 1), evaluation("b", 0.8, 2, { confidence_threshold: 0.5 })], [JOB]).map((point) => point.label);
  expect(labels).toEqual(["step 5 · rl · threshold 0.9", "step 5 · rl · threshold 0.5"]);
});
