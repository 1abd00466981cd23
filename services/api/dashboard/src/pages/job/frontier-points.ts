/** Evaluations as points of accuracy against speed. */
import type { Evaluation } from "../../api/types";
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

/** One point per evaluation that measured both. */
export function pointsOf(evaluations: readonly Evaluation[]): FrontierPoint[] {
  const points = evaluations.flatMap((item): FrontierPoint[] => {
    const { accuracy, tokens_per_step: speed } = item.results as Record<string, number | undefined>;
    if (accuracy === undefined || speed === undefined) return [];
    const [low, high] = [item.results["accuracy_low"] ?? accuracy, item.results["accuracy_high"] ?? accuracy] as [number, number];
    const setting = settingOf(item.results);
    return [{ id: item.id, label: `step ${item.step} · ${item.stage}${setting ? ` · ${setting}` : ""}`, speed, accuracy, low, high, isBest: false }];
  });
  return points.map((point) => ({ ...point, isBest: !points.some((other) => dominates(other, point)) }));
}

function dominates(a: FrontierPoint, b: FrontierPoint): boolean {
  return a.speed >= b.speed && a.accuracy >= b.accuracy && (a.speed > b.speed || a.accuracy > b.accuracy);
}

/** The decoding of an evaluation, where it says one. */
export function settingOf(results: Record<string, unknown>): string {
  const decoding = (results["decoding"] ?? results) as Record<string, unknown>;
  const parts = [
    decoding["unmasking_strategy"] && words(String(decoding["unmasking_strategy"])),
    decoding["confidence_threshold"] !== undefined && `threshold ${String(decoding["confidence_threshold"])}`,
    decoding["denoising_steps"] !== undefined && `${String(decoding["denoising_steps"])} steps`,
  ];
  return parts.filter(Boolean).join(", ");
}
