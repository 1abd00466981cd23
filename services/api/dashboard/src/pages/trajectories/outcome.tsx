/** Outcomes and advantages as they are written everywhere. */
import { words } from "../../format";
import { Badge, type Tone } from "../../ui/parts";

export const OUTCOMES = ["correct", "incorrect", "no_answer", "truncated", "too_complex", "unverifiable", "aborted"] as const;

const TONES: Record<string, Tone> = { correct: "good", incorrect: "bad", unverifiable: "warn", aborted: "warn" };

export function OutcomeBadge({ outcome }: { outcome: string | null }) {
  return <Badge tone={TONES[outcome ?? ""] ?? "neutral"}>{words(outcome ?? "ungraded")}</Badge>;
}

/** One dot per response. */
export function OutcomeDots({ outcomes }: { outcomes: readonly string[] }) {
  const counts = new Map<string, number>();
  for (const outcome of outcomes) counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
  const label = [...counts].map(([outcome, count]) => `${count} ${words(outcome)}`).join(", ");
  return (
    <span className="dots" role="img" aria-label={label} title={label}>
      {outcomes.map((outcome, place) => <i key={place} className={TONES[outcome] ?? "neutral"} />)}
    </span>
  );
}

/** A number with its sign. */
export function signed(value: number): string {
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
}
