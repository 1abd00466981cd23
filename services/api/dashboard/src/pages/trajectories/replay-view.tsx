/** Denoising replay of one response: the input of the model before each step. */
import { type PointerEvent, useMemo, useState } from "react";

import type { TrajectoryDetail } from "../../api/types";
import { number, humanize } from "../../format";
import { Badge, Segments, Stat } from "../../ui/parts";
import type { Colouring } from "./block-view";
import { OutcomeBadge, formatSigned } from "./outcome";
import { type AnswerSpan, buildReplay, findAnswer, lowestConfidence, type Replay, type ReplayToken, toBlockRanges, rangePosition, visibleText } from "./replay-model";
import { StepStrip } from "./step-strip";
import { BlockRange } from "./block-range";
import { type Playback, useKeys, usePlayback } from "./use-playback";

interface Props {
  detail: TrajectoryDetail;
  /** Go to the response at this offset in the group. */
  onSibling: (by: number) => void;
}

const LOWEST_SHOWN = 4;

export function ReplayView({ detail, onSibling }: Props) {
  const replay = useMemo(() => buildReplay(detail), [detail]);
  const ranges = useMemo(() => toBlockRanges(replay.blocks), [replay]);
  const answer = useMemo(() => {
    const verdict = detail.verdict as { extracted?: string } | null;
    return findAnswer(replay, verdict?.extracted ?? "", detail.reference_answer, detail.outcome === "correct");
  }, [replay, detail]);
  const playback = usePlayback(replay.numSteps);
  const [colouring, setColouring] = useState<Colouring>("step");
  const [showsOrder, setShowsOrder] = useState(true);
  const [chosen, setChosen] = useState<number | null>(null);
  const { at, seek, toggle } = playback;
  const keys = useMemo(() => ({
    ArrowRight: () => seek(at + 1), ArrowLeft: () => seek(at - 1), Home: () => seek(0), End: () => seek(replay.numSteps), " ": toggle,
    ArrowDown: () => onSibling(1), ArrowUp: () => onSibling(-1), w: () => { if (answer?.wrong) seek(answer.wrong.step); },
  }), [at, seek, toggle, onSibling, answer, replay.numSteps]);
  useKeys(keys);
  const point = (event: PointerEvent<HTMLElement>) => {
    const place = (event.target as HTMLElement).closest<HTMLElement>("[data-token]")?.dataset["token"];
    if (place !== undefined) setChosen(Number(place));
  };
  return (
    <div className="replay">
      <div className="stack tight replay-main">
        <AnswerSummary detail={detail} answer={answer} onSeek={seek} />
        <section className="card stack tight" aria-label="Denoising replay">
          <Transport playback={playback} replay={replay} />
          <div className="row apart">
            <Legend colouring={colouring} />
            <div className="row">
              <label className="check small"><input type="checkbox" checked={showsOrder} onChange={(event) => setShowsOrder(event.target.checked)} /> step numbers</label>
              <Segments label="Colour by" value={colouring} onChange={setColouring} options={[{ value: "step", label: "Step" }, { value: "confidence", label: "Confidence" }, { value: "advantage", label: "Advantage" }]} />
            </div>
          </div>
          <div className={`replay-text ${showsOrder ? "with-order" : ""}`} onPointerOver={point} onPointerDown={point} tabIndex={0} role="group" aria-label={`Response after ${at} of ${replay.numSteps} steps`}>
            {ranges.map((blocks) => (
              <BlockRange
                key={blocks[0]?.index}
                blocks={blocks}
                at={rangePosition(blocks, at)}
                isLong={ranges.length > 1}
                colouring={colouring}
                advantage={detail.advantage}
                answerFrom={answer?.tokens[0]?.index ?? -1}
                answerTo={answer?.tokens.at(-1)?.index ?? -2}
                wrongIndex={answer?.wrong?.index ?? -1}
                showsOrder={showsOrder}
              />
            ))}
          </div>
          <p className="muted small keys"><kbd>←</kbd> <kbd>→</kbd> step <kbd>Space</kbd> play <kbd>Home</kbd> <kbd>End</kbd> <kbd>↑</kbd> <kbd>↓</kbd> previous or next response{answer?.wrong ? <> <kbd>w</kbd> first wrong token</> : null} · Bars: tokens per step, coloured by lowest confidence</p>
        </section>
        <details className="card">
          <summary>Prompt with chat template ({number(detail.prompt_ids.length)} tokens)</summary>
          <pre className="prompt">{detail.prompt ?? `${detail.prompt_ids.join(" ")}\n\nThe tokenizer of the model is not available, so only token ids are shown.`}</pre>
        </details>
      </div>
      <aside className="stack tight replay-side">
        <TokenCard token={chosen === null ? undefined : replay.tokens[chosen]} at={at} />
        <VerdictCard detail={detail} />
        <TrajectoryStats detail={detail} replay={replay} />
        <LowestConfidence replay={replay} onSeek={seek} />
      </aside>
    </div>
  );
}

/** Whether the response was compared with a reference answer: not every job's graders ask for that. */
function isCompared(detail: TrajectoryDetail): boolean {
  return detail.outcome !== "scored" && detail.reference_answer !== "";
}

/** The extracted answer, the reference answer, and the steps that committed it. */
function AnswerSummary({ detail, answer, onSeek }: { detail: TrajectoryDetail; answer: AnswerSpan | null; onSeek: (at: number) => void }) {
  const verdict = detail.verdict as { extracted?: string; reason?: string } | null;
  const wrong = answer?.wrong;
  return (
    <div className={`note ${detail.outcome === "correct" ? "good" : wrong ? "bad" : ""}`}>
      <div className="row">
        <OutcomeBadge outcome={detail.outcome} />
        {isCompared(detail) && <span>
          Answer <strong className="mono">{verdict?.extracted || "none"}</strong>, reference answer <strong className="mono">{detail.reference_answer}</strong>
          {answer && <>; committed {answer.firstStep === answer.lastStep ? `at step ${answer.firstStep}` : `in steps ${answer.firstStep} to ${answer.lastStep}`}</>}
        </span>}
        {!isCompared(detail) && <span>Reward <strong>{number(detail.reward)}</strong></span>}
      </div>
      {wrong && (
        <div className="row">
          <span>First wrong token: step {wrong.step}, <strong className="mono">{visibleText(wrong.text)}</strong> with confidence {number(wrong.confidence)}</span>
          <button type="button" className="button small" onClick={() => onSeek(wrong.step)}>Show step</button>
        </div>
      )}
      {verdict?.reason && <span className="small">{humanize(verdict.reason)}</span>}
    </div>
  );
}

function Transport({ playback, replay }: { playback: Playback; replay: Replay }) {
  const { at, isPlaying, seek, toggle } = playback;
  const committed = replay.commits[at - 1]?.length ?? 0;
  const summary = at === 0 ? "initial state: all tokens masked" : `step ${number(at)} committed ${committed} ${committed === 1 ? "token" : "tokens"}${at < replay.numSteps ? `; shown: input of step ${number(at + 1)}` : "; response complete"}`;
  return (
    <div className="stack tight">
      <StepStrip replay={replay} at={at} onSeek={seek} />
      <input type="range" className="scrubber" min={0} max={replay.numSteps} value={at} aria-label="Denoising step" aria-valuetext={summary} onChange={(event) => seek(Number(event.target.value))} />
      <div className="row">
        <button type="button" className="button small" onClick={() => seek(at - 1)} disabled={at === 0} aria-label="Previous step">◂</button>
        <button type="button" className="button small play" onClick={toggle}>{isPlaying ? "Pause" : "Play"}</button>
        <button type="button" className="button small" onClick={() => seek(at + 1)} disabled={at === replay.numSteps} aria-label="Next step">▸</button>
        <strong className="num">{number(at)} / {number(replay.numSteps)}</strong>
        <span className="muted small grow">{summary}</span>
      </div>
    </div>
  );
}

const LEGENDS: Record<Colouring, readonly [className: string, label: string][]> = {
  step: [["ramp-0", "committed first"], ["ramp-2", "…"], ["ramp-4", "committed last"]],
  confidence: [["low", "below 0.5"], ["mid", "below 0.9"], ["high", "0.9 or above"]],
  advantage: [["high", "reinforced"], ["low", "discouraged"], ["plain", "no signal"]],
};

function Legend({ colouring }: { colouring: Colouring }) {
  return (
    <ul className="replay-legend small muted">
      {LEGENDS[colouring].map(([name, label]) => <li key={name}><i className={`token ${name}`} /> {label}</li>)}
      <li><i className="token mask">▒</i> masked</li>
      <li><i className="token after-end plain">x</i> after EOS</li>
    </ul>
  );
}

function TokenCard({ token, at }: { token: ReplayToken | undefined; at: number }) {
  return (
    <section className="card token-card" aria-label="Token">
      <h3>Token</h3>
      {token === undefined || token.step > at ? <p className="muted small">Hover over a token.</p> : (
        <dl className="definitions small">
          <dt>Text</dt><dd className="mono">{JSON.stringify(token.text)}</dd>
          <dt>Id</dt><dd className="num">{token.id}</dd>
          <dt>Position</dt><dd className="num">{token.index + 1}{token.isAfterEnd ? ", after EOS" : ""}</dd>
          <dt>Step</dt><dd className="num">{token.step}</dd>
          <dt>Confidence</dt><dd className="num">{number(token.confidence)}</dd>
          <dt>Log-prob</dt><dd className="num">{number(token.logprob)}</dd>
        </dl>
      )}
    </section>
  );
}

function VerdictCard({ detail }: { detail: TrajectoryDetail }) {
  const verdict = (detail.verdict ?? {}) as Record<string, string | number | undefined>;
  const explanations = (detail.verdict?.["explanations"] ?? {}) as Record<string, string>;
  return (
    <section className="card" aria-label="Reward">
      <h3>Reward</h3>
      <dl className="definitions small">
        {Object.entries(detail.rewards).map(([name, value]) => (
          <Definition key={name} name={name}>
            {number(value)}
            {explanations[name] && <pre className="small">{explanations[name]}</pre>}
          </Definition>
        ))}
        <Definition name="Total"><strong>{number(detail.reward)}</strong></Definition>
        <Definition name="Advantage">{detail.advantage === null ? "–" : formatSigned(detail.advantage)}</Definition>
        {isCompared(detail) && <>
          <Definition name="Extracted"><code>{verdict["extracted"] || "–"}</code> {verdict["extraction_method"] ? <Badge plain>{verdict["extraction_method"]}</Badge> : null}</Definition>
          <Definition name="Compared"><code>{verdict["normalized_answer"] || "–"}</code> with <code>{verdict["normalized_reference_answer"] || detail.reference_answer}</code></Definition>
          <Definition name="Method">{humanize(String(verdict["compare_path"] ?? "–"))}</Definition>
          <Definition name="Verifier">{number(Number(verdict["cpu_ms"] ?? 0))} ms CPU, {number(Number(verdict["wall_ms"] ?? 0))} ms wall</Definition>
        </>}
      </dl>
      {detail.row && (
        <details className="small">
          <summary>Row of the data set</summary>
          <pre>{JSON.stringify(detail.row, null, 2)}</pre>
        </details>
      )}
    </section>
  );
}

function Definition({ name, children }: { name: string; children: React.ReactNode }) {
  return <><dt>{name}</dt><dd className="num">{children}</dd></>;
}

function TrajectoryStats({ detail, replay }: { detail: TrajectoryDetail; replay: Replay }) {
  return (
    <section className="card stats" aria-label="Statistics">
      <Stat name="Visible tokens">{number(detail.visible_len)}</Stat>
      <Stat name="Steps">{number(replay.numSteps)}</Stat>
      <Stat name="Tokens per step">{number(replay.tokens.length / Math.max(1, replay.numSteps))}</Stat>
      <Stat name="Forward passes">{number(detail.num_forwards)}</Stat>
      <Stat name="Finish reason">{detail.finish_reason}</Stat>
      <Stat name="Weight version">{number(detail.weight_version)}</Stat>
    </section>
  );
}

function LowestConfidence({ replay, onSeek }: { replay: Replay; onSeek: (at: number) => void }) {
  return (
    <section className="card" aria-label="Lowest confidence">
      <h3>Lowest confidence</h3>
      <ul className="lowest">
        {lowestConfidence(replay, LOWEST_SHOWN).map((token) => (
          <li key={token.index}>
            <button type="button" className="button small" onClick={() => onSeek(token.step)}>step {token.step}</button>
            <code>{visibleText(token.text)}</code>
            <span className="num muted">{number(token.confidence)}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}
