/** Evaluations as points of accuracy against speed. */
import type { Evaluation, Job } from "../../api/types";
import { words } from "../../format";

export interface FrontierPoint {
  id: string;
  label: string;
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
    const label = [job && nameOf(job), `step ${item.step}`, item.stage, settingOf(item, job)].filter(Boolean).join(" · ");
    return [{ id: item.id, label, speed, accuracy, low, high, isBest: false }];
  });
  return points.map((point) => ({ ...point, isBest: !points.some((other) => dominates(other, point)) }));
}

function dominates(a: FrontierPoint, b: FrontierPoint): boolean {
  return a.speed >= b.speed && a.accuracy >= b.accuracy && (a.speed > b.speed || a.accuracy > b.accuracy);
}

/** The decoding of an evaluation: its own where it says one, else its job's. */
export function settingOf(evaluation: Evaluation, job: Job | undefined): string {
  const decoding = { ...(job?.spec["diffusion"] as object | undefined), ...(evaluation.results["decoding"] as object | undefined) } as Record<string, unknown>;
  const parts = [
    decoding["unmasking_strategy"] && words(String(decoding["unmasking_strategy"])),
    decoding["confidence_threshold"] != null && `threshold ${String(decoding["confidence_threshold"])}`,
    decoding["denoising_steps"] != null && `${String(decoding["denoising_steps"])} steps`,
  ];
  return parts.filter(Boolean).join(", ");
}
