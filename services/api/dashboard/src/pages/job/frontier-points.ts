/** Evaluations as points of accuracy against speed. */
import type { Evaluation, Job } from "../../api/types";
import { words } from "../../format";

/** What was varied: the rule that counts steps per block, or the one with a threshold; other rules vary nothing. */
export type Family = "threshold" | "steps" | "other";

export interface FrontierPoint {
  id: string;
  label: string;
  family: Family;
  /** What was set, in a word or a number: "0.9", "2". */
  setting: string;
  /** Whose weights: points of one curve differ in their decoding alone. */
  weights: string;
  /** Response tokens per denoising step. */
  speed: number;
  accuracy: number;
  low: number;
  high: number;
  /** Whether no other point is both faster and more accurate. */
  isBest: boolean;
}

/** One point per evaluation that measured both; `nameOf` says whose it is where there are several jobs. */
export function pointsOf(evaluations: readonly Evaluation[], jobs: readonly Job[], nameOf: (job: Job) => string = () => ""): FrontierPoint[] {
  const points = evaluations.flatMap((item): FrontierPoint[] => {
    const job = jobs.find((one) => one.id === item.job_id);
    const { accuracy, tokens_per_step: speed } = item.results as Record<string, number | undefined>;
    if (accuracy === undefined || speed === undefined) return [];
    const [low, high] = [item.results["accuracy_low"] ?? accuracy, item.results["accuracy_high"] ?? accuracy] as [number, number];
    const weights = [job && nameOf(job), `step ${item.step}`, item.stage].filter(Boolean).join(" · ");
    const decoding = decodingOf(item, job);
    return [{ id: item.id, label: [weights, settingOf(item, job)].filter(Boolean).join(" · "), ...varied(decoding), weights, speed, accuracy, low, high, isBest: false }];
  });
  return points.map((point) => ({ ...point, isBest: !points.some((other) => dominates(other, point)) }));
}

/** Points of the same weights and family in the order of their speed; a single one is no curve. */
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

/** The decoding of an evaluation: its own values where it states some, else its job's. */
function decodingOf(evaluation: Evaluation, job: Job | undefined): Decoding {
  return { ...(job?.spec["diffusion"] as object | undefined), ...(evaluation.results["decoding"] as object | undefined) };
}

function familyOf(decoding: Decoding): Family {
  const rule = decoding["unmasking_strategy"];
  if (rule === "low_confidence_static" || rule === "sequential") return "steps";
  return rule === undefined || rule === "low_confidence_dynamic" ? "threshold" : "other";
}

function varied(decoding: Decoding): { family: Family; setting: string } {
  const family = familyOf(decoding);
  if (family === "other") return { family, setting: words(String(decoding["unmasking_strategy"])) };
  const value = decoding[family === "steps" ? "denoising_steps" : "confidence_threshold"];
  return { family, setting: value == null ? "all" : String(value) };
}

/** The rule and what governs it, e.g. "low confidence static, 2 steps per block". */
export function settingOf(evaluation: Evaluation, job: Job | undefined): string {
  const decoding = decodingOf(evaluation, job);
  const { family, setting } = varied(decoding);
  const rule = decoding["unmasking_strategy"] === undefined ? "" : words(String(decoding["unmasking_strategy"]));
  const value = { threshold: `threshold ${setting}`, steps: setting === "all" ? "a token per step" : `${setting} ${setting === "1" ? "step" : "steps"} per block`, other: "" }[family];
  return [rule, value].filter(Boolean).join(", ");
}
