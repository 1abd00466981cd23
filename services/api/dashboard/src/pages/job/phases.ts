/** Turn the learner's phase events into time spans, and map phases to the lanes of the timeline. */
import type { JobEvent } from "../../api/types";

export interface Span {
  phase: string;
  stage: string;
  /** Unix seconds. */
  start: number;
  end: number;
}

/** Phases in which each lane is busy, and those in which it waits for another lane. */
export const LANES: readonly { name: string; busy: readonly string[]; waits: readonly string[] }[] = [
  { name: "Trainer", busy: ["train", "checkpoint", "loading"], waits: ["rollout", "reward", "weight_sync", "eval", "waiting"] },
  { name: "Sync", busy: ["weight_sync"], waits: [] },
  { name: "Rollout and reward", busy: ["rollout", "reward", "eval"], waits: ["train", "checkpoint", "weight_sync"] },
];

/** A span per phase, from its event to the next one or the end of the attempt; oldest first. */
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

/** Seconds per phase, longest first. */
export function totals(spans: readonly Span[]): { phase: string; seconds: number }[] {
  const sums = new Map<string, number>();
  for (const span of spans) sums.set(span.phase, (sums.get(span.phase) ?? 0) + span.end - span.start);
  return [...sums].map(([phase, seconds]) => ({ phase, seconds })).sort((a, b) => b.seconds - a.seconds);
}

/** End of a step. */
export interface StepMark {
  step: number;
  /** Unix seconds. */
  time: number;
}

/** Step ends between two times, from progress events in ascending order. */
export function stepsOf(events: readonly JobEvent[], from: number, to: number): StepMark[] {
  return events.filter((event) => event.time >= from && event.time <= to && (event.data["step"] as number) > 0).map((event) => ({ step: event.data["step"] as number, time: event.time }));
}

/** Drop marks that are closer than `gap` seconds to the last kept one, so that labels do not overlap. */
export function thinMarks(marks: readonly StepMark[], gap: number): StepMark[] {
  const kept: StepMark[] = [];
  for (const mark of marks) if (mark.time - (kept.at(-1)?.time ?? -Infinity) >= gap) kept.push(mark);
  return kept;
}

/** A function from step to seconds since `start`, interpolated linearly between progress events. */
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
