/** Points of the accuracy vs. speed chart. */
import type { Evaluation, Job } from "../../api/types";
import { humanize } from "../../format";

/** Which decoding parameter a point varies: the confidence threshold, the denoising steps per block, or none. */
export type Family = "threshold" | "steps" | "other";

export interface FrontierPoint {
  id: string;
  label: string;
  family: Family;
  /** Value of the varied parameter, e.g. "0.9" or "2". */
  setting: string;
  /** Job, step and stage of the weights. Points of one curve share weights and differ only in decoding. */
  weights: string;
  /** Response tokens per denoising step. */
  speed: number;
  accuracy: number;
  low: number;
  high: number;
  /** Whether the point lies on the Pareto frontier. */
  isBest: boolean;
}

/** One point per evaluation with accuracy and speed; `nameOf` labels the job when several jobs are compared. */
export function pointsOf(evaluations: readonly Evaluation[], jobs: readonly Job[], nameOf: (job: Job) => string = () => ""): FrontierPoint[] {
  const points = evaluations.flatMap((item): FrontierPoint[] => {
    const job = jobs.find((one) => one.id === item.job_id);
    const { accuracy, tokens_per_step: speed } = item.results as Record<string, number | undefined>;
    if (accuracy === undefined || speed === undefined) return [];
    const [low, high] = [item.results["accuracy_low"] ?? accuracy, item.results["accuracy_high"] ?? accuracy] as [number, number];
    const weights = [job && nameOf(job), `step ${item.step}`, item.stage].filter(Boolean).join(" · ");
    const decoding = decodingOf(item, job);
    return [{ id: item.id, label: [weights, settingOf(item, job)].filter(Boolean).join(" · "), ...toVariation(decoding), weights, speed, accuracy, low, high, isBest: false }];
  });
  return points.map((point) => ({ ...point, isBest: !points.some((other) => dominates(other, point)) }));
}

/** Groups of two or more points with the same weights and family, sorted by speed. */
export function curvesOf(points: readonly FrontierPoint[]): FrontierPoint[][] {
  const curves = new Map<string, FrontierPoint[]>();
  for (const point of points) {
    const key = `${point.weights} ${point.family}`;
    curves.set(key, [...(curves.get(key) ?? []), point]);
  }
  return [...curves.values()].filter((curve) => curve.length > 1).map((curve) => curve.sort((a, b) => a.speed - b.speed));
}

function dominates(a: FrontierPoint, b: FrontierPoint): boolean {
  return a.speed >= b.speed && a.accuracy >= b.accuracy && (a.speed > b.speed || a.accuracy > b.accuracy);
}

type Decoding = Record<string, unknown>;

/** Decoding parameters of an evaluation: its own values override those of the job. */
function decodingOf(evaluation: Evaluation, job: Job | undefined): Decoding {
  return { ...(job?.spec["diffusion"] as object | undefined), ...(evaluation.results["decoding"] as object | undefined) };
}

function familyOf(decoding: Decoding): Family {
  const strategy = decoding["unmasking_strategy"];
  if (strategy === "low_confidence_static" || strategy === "sequential") return "steps";
  return strategy === undefined || strategy === "low_confidence_dynamic" ? "threshold" : "other";
}

function toVariation(decoding: Decoding): { family: Family; setting: string } {
  const family = familyOf(decoding);
  if (family === "other") return { family, setting: humanize(String(decoding["unmasking_strategy"])) };
  const value = decoding[family === "steps" ? "denoising_steps" : "confidence_threshold"];
  return { family, setting: value == null ? "all" : String(value) };
}

/** The unmasking strategy and its parameter, e.g. "low confidence static, 2 steps per block". */
export function settingOf(evaluation: Evaluation, job: Job | undefined): string {
  const decoding = decodingOf(evaluation, job);
  const { family, setting } = toVariation(decoding);
  const strategy = decoding["unmasking_strategy"] === undefined ? "" : humanize(String(decoding["unmasking_strategy"]));
  const value = { threshold: `threshold ${setting}`, steps: setting === "all" ? "1 token per step" : `${setting} ${setting === "1" ? "step" : "steps"} per block`, other: "" }[family];
  return [strategy, value].filter(Boolean).join(", ");
}
