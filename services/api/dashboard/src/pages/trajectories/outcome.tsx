/** Display of outcomes, dispositions and advantages. */
import { humanize } from "../../format";
import { Badge, type Tone } from "../../ui/parts";

export const OUTCOMES = ["correct", "incorrect", "no_answer", "truncated", "too_complex", "scored", "unverifiable", "aborted"] as const;

/** Phrases for the filter "Has …". */
export const OUTCOME_NOUNS: Record<(typeof OUTCOMES)[number], string> = {
  correct: "a correct response", incorrect: "an incorrect response", no_answer: "a response without an answer", truncated: "a truncated response",
  too_complex: "a response that is too complex", scored: "a response graded without comparison", unverifiable: "an unverifiable response", aborted: "an aborted response",
};

const USES: Record<string, string> = { trained: "training", evaluated: "evaluation" };

/** What a group was used for: "training", "evaluation" or e.g. "dropped (zero variance)". */
export function describeDisposition(disposition: string): string {
  const reason = /^dropped_(.+)$/.exec(disposition)?.[1];
  return reason === undefined ? (USES[disposition] ?? humanize(disposition)) : `dropped (${humanize(reason)})`;
}

const TONES: Record<string, Tone> = { correct: "good", incorrect: "bad", unverifiable: "warn", aborted: "warn" };

export function OutcomeBadge({ outcome }: { outcome: string | null }) {
  return <Badge tone={TONES[outcome ?? ""] ?? "neutral"}>{humanize(outcome ?? "ungraded")}</Badge>;
}

/** One dot per response. */
export function OutcomeDots({ outcomes }: { outcomes: readonly string[] }) {
  const counts = new Map<string, number>();
  for (const outcome of outcomes) counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
  const label = [...counts].map(([outcome, count]) => `${count} ${humanize(outcome)}`).join(", ");
  return (
    <span className="dots" role="img" aria-label={label} title={label}>
      {outcomes.map((outcome, place) => <i key={place} className={TONES[outcome] ?? "neutral"} />)}
    </span>
  );
}

/** A number with its sign. */
export function formatSigned(value: number): string {
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
}
