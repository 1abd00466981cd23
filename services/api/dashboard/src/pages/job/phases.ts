/** The learner's phase events as spans of time, and the lanes of the processes that they keep busy. */
import type { JobEvent } from "../../api/types";

export interface Span {
  phase: string;
  stage: string;
  /** Unix seconds. */
  start: number;
  end: number;
}

/** Which phases keep whom busy, and during which it waits for another. */
export const LANES: readonly { name: string; busy: readonly string[]; waits: readonly string[] }[] = [
  { name: "Trainer", busy: ["train", "checkpoint", "loading"], waits: ["rollout", "reward", "weight_sync", "eval", "waiting"] },
  { name: "Sync", busy: ["weight_sync"], waits: [] },
  { name: "Rollout and reward", busy: ["rollout", "reward", "eval"], waits: ["train", "checkpoint", "weight_sync"] },
];

/** Each phase until the next one, or until the attempt's end; oldest first. */
export function spansOf(events: readonly JobEvent[], end: number): Span[] {
  const spans: Span[] = [];
  let open: Span | null = null;
  for (const event of events) {
    const isEnd = event.type === "attempt" && event.data["state"] !== "running" && event.data["state"] !== "provisioning";
    if (event.type !== "phase" && !isEnd) continue;
    if (open !== null) spans.push({ ...open, end: event.time });
    open = isEnd ? null : { phase: String(event.data["phase"]), stage: String(event.data["stage"]), start: event.time, end: event.time };
  }
  if (open !== null && end > open.start) spans.push({ ...open, end });
  return spans.filter((span) => span.end > span.start);
}

/** Seconds per phase, the longest first. */
export function totals(spans: readonly Span[]): { phase: string; seconds: number }[] {
  const sums = new Map<string, number>();
  for (const span of spans) sums.set(span.phase, (sums.get(span.phase) ?? 0) + span.end - span.start);
  return [...sums].map(([phase, seconds]) => ({ phase, seconds })).sort((a, b) => b.seconds - a.seconds);
}

/** The end of a step. */
export interface StepMark {
  step: number;
  /** Unix seconds. */
  time: number;
}

/** Ends of steps between two times, of progress events, oldest first. */
export function stepsOf(events: readonly JobEvent[], from: number, to: number): StepMark[] {
  return events.filter((event) => event.time >= from && event.time <= to && (event.data["step"] as number) > 0).map((event) => ({ step: event.data["step"] as number, time: event.time }));
}

/** As many of the marks as can be read when each needs `gap` seconds. */
export function spaced(marks: readonly StepMark[], gap: number): StepMark[] {
  const kept: StepMark[] = [];
  for (const mark of marks) if (mark.time - (kept.at(-1)?.time ?? -Infinity) >= gap) kept.push(mark);
  return kept;
}

/** Seconds from `start` to a step's end, of progress events; between known steps on a straight line. */
export function timesOf(events: readonly JobEvent[], start: number): (step: number) => number {
  const known = new Map<number, number>();
  for (const event of events) known.set(event.data["step"] as number, event.time - start);
  const steps = [...known.keys()].sort((a, b) => a - b);
  return (step) => {
    let low = 0;
    let high = steps.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((steps[middle] ?? 0) <= step) low = middle;
      else high = middle - 1;
    }
    const [left = 0, right = left] = [steps[low], steps[low + 1]];
    const [from = 0, to = from] = [known.get(left), known.get(right)];
    return right > left ? from + ((to - from) * (step - left)) / (right - left) : from;
  };
}
