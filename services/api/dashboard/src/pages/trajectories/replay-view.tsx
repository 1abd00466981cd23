/** The denoising replay of one response: the state before every step exactly as the model saw it. */
import { type PointerEvent, useMemo, useState } from "react";

import type { TrajectoryDetail } from "../../api/types";
import { number, words } from "../../format";
import { Badge, Segments, Stat } from "../../ui/parts";
import type { Colouring } from "./block-view";
import { OutcomeBadge, signed } from "./outcome";
import { type AnswerSpan, buildReplay, findAnswer, leastSure, type Replay, type ReplayToken, stretchesOf, stretchPosition, visibleText } from "./replay-model";
import { StepStrip } from "./step-strip";
import { Stretch } from "./stretch";
import { type Playback, useKeys, usePlayback } from "./use-playback";

interface Props {
  detail: TrajectoryDetail;
  /** Go to the response this many places on. */
  onSibling: (by: number) => void;
}

const UNSURE_SHOWN = 4;

export function ReplayView({ detail, onSibling }: Props) {
  const replay = useMemo(() => buildReplay(detail), [detail]);
  const stretches = useMemo(() => stretchesOf(replay.blocks), [replay]);
  const answer = useMemo(() => {
    const verdict = detail.verdict as { extracted?: string } | null;
    return findAnswer(replay, verdict?.extracted ?? "", detail.gold, detail.outcome === "correct");
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
        <Story detail={detail} answer={answer} onSeek={seek} />
        <section className="card stack tight" aria-label="Denoising replay">
          <Transport playback={playback} replay={replay} />
          <div className="row apart">
            <Legend colouring={colouring} />
            <div className="row">
              <label className="check small"><input type="checkbox" checked={showsOrder} onChange={(event) => setShowsOrder(event.target.checked)} /> step numbers</label>
              <Segments label="Colour by" value={colouring} onChange={setColouring} options={[{ value: "step", label: "Step" }, { value: "confidence", label: "Confidence" }, { value: "advantage", label: "Advantage" }]} />
            </div>
          </div>
          <div className={`film ${showsOrder ? "with-order" : ""}`} onPointerOver={point} onPointerDown={point} tabIndex={0} role="group" aria-label={`Response after ${at} of ${replay.numSteps} steps`}>
            {stretches.map((blocks) => (
              <Stretch
                key={blocks[0]?.index}
                blocks={blocks}
                at={stretchPosition(blocks, at)}
                isLong={stretches.length > 1}
                colouring={colouring}
                advantage={detail.advantage}
                answerFrom={answer?.tokens[0]?.index ?? -1}
                answerTo={answer?.tokens.at(-1)?.index ?? -2}
                wrongIndex={answer?.wrong?.index ?? -1}
                showsOrder={showsOrder}
              />
            ))}
          </div>
          <p className="muted small keys"><kbd>←</kbd> <kbd>→</kbd> step <kbd>Space</kbd> play <kbd>Home</kbd> <kbd>End</kbd> <kbd>↑</kbd> <kbd>↓</kbd> other response{answer?.wrong ? <> <kbd>w</kbd> wrong commitment</> : null} · bars: tokens per step, coloured by the least confidence among them</p>
        </section>
        <details className="card">
          <summary>Prompt, as the model was given it ({number(detail.prompt_ids.length)} tokens)</summary>
          <pre className="prompt">{detail.prompt ?? `${detail.prompt_ids.join(" ")}\n\nThe model's tokenizer is gone: only ids are known.`}</pre>
        </details>
      </div>
      <aside className="stack tight replay-side">
        <TokenCard token={chosen === null ? undefined : replay.tokens[chosen]} at={at} />
        <VerdictCard detail={detail} />
        <Numbers detail={detail} replay={replay} />
        <Unsure replay={replay} onSeek={seek} />
      </aside>
    </div>
  );
}

/** At a glance: what it answered, and when it committed to that. */
function Story({ detail, answer, onSeek }: { detail: TrajectoryDetail; answer: AnswerSpan | null; onSeek: (at: number) => void }) {
  const verdict = detail.verdict as { extracted?: string; reason?: string } | null;
  const wrong = answer?.wrong;
  return (
    <div className={`note ${detail.outcome === "correct" ? "good" : wrong ? "bad" : ""}`}>
      <div className="row">
        <OutcomeBadge outcome={detail.outcome} />
        <span>
          answered <strong className="mono">{verdict?.extracted || "nothing"}</strong>, gold <strong className="mono">{detail.gold}</strong>
          {answer && <>; committed {answer.firstStep === answer.lastStep ? `at step ${answer.firstStep}` : `from step ${answer.firstStep} to ${answer.lastStep}`}</>}
        </span>
      </div>
      {wrong && (
        <div className="row">
          <span>It committed to the wrong answer at step {wrong.step}: <strong className="mono">{visibleText(wrong.text)}</strong> with confidence {number(wrong.confidence)}.</span>
          <button type="button" className="button small" onClick={() => onSeek(wrong.step)}>Show that step</button>
        </div>
      )}
      {verdict?.reason && <span className="small">{words(verdict.reason)}</span>}
    </div>
  );
}

function Transport({ playback, replay }: { playback: Playback; replay: Replay }) {
  const { at, isPlaying, seek, toggle } = playback;
  const committed = replay.commits[at - 1]?.length ?? 0;
  const what = at === 0 ? "what the model saw first: nothing but masks" : `step ${number(at)} committed ${committed} ${committed === 1 ? "token" : "tokens"}${at < replay.numSteps ? `; this is what step ${number(at + 1)} saw` : "; the response is complete"}`;
  return (
    <div className="stack tight">
      <StepStrip replay={replay} at={at} onSeek={seek} />
      <input type="range" className="scrubber" min={0} max={replay.numSteps} value={at} aria-label="Denoising step" aria-valuetext={what} onChange={(event) => seek(Number(event.target.value))} />
      <div className="row">
        <button type="button" className="button small" onClick={() => seek(at - 1)} disabled={at === 0} aria-label="One step back">◂</button>
        <button type="button" className="button small play" onClick={toggle}>{isPlaying ? "Pause" : "Play"}</button>
        <button type="button" className="button small" onClick={() => seek(at + 1)} disabled={at === replay.numSteps} aria-label="One step on">▸</button>
        <strong className="num">{number(at)} / {number(replay.numSteps)}</strong>
        <span className="muted small grow">{what}</span>
      </div>
    </div>
  );
}

const LEGENDS: Record<Colouring, readonly [className: string, label: string][]> = {
  step: [["ramp-0", "first in its block"], ["ramp-2", "…"], ["ramp-4", "last in its block"]],
  confidence: [["low", "below 0.5"], ["mid", "below 0.9"], ["high", "0.9 and above"]],
  advantage: [["high", "reinforced"], ["low", "discouraged"], ["plain", "no signal"]],
};

function Legend({ colouring }: { colouring: Colouring }) {
  return (
    <ul className="film-legend small muted">
      {LEGENDS[colouring].map(([name, label]) => <li key={name}><i className={`token ${name}`} /> {label}</li>)}
      <li><i className="token mask">▒</i> masked</li>
      <li><i className="token after-end plain">x</i> after the end</li>
    </ul>
  );
}

function TokenCard({ token, at }: { token: ReplayToken | undefined; at: number }) {
  return (
    <section className="card token-card" aria-label="Token">
      <h3>Token</h3>
      {token === undefined || token.step > at ? <p className="muted small">Point at a token.</p> : (
        <dl className="facts small">
          <dt>Text</dt><dd className="mono">{JSON.stringify(token.text)}</dd>
          <dt>Id</dt><dd className="num">{token.id}</dd>
          <dt>Place</dt><dd className="num">{token.index + 1}{token.isAfterEnd ? ", after the end" : ""}</dd>
          <dt>Step</dt><dd className="num">{token.step}</dd>
          <dt>Confidence</dt><dd className="num">{number(token.confidence)}</dd>
          <dt>Log-prob.</dt><dd className="num">{number(token.logprob)}</dd>
        </dl>
      )}
    </section>
  );
}

function VerdictCard({ detail }: { detail: TrajectoryDetail }) {
  const verdict = (detail.verdict ?? {}) as Record<string, string | number | undefined>;
  return (
    <section className="card" aria-label="Reward">
      <h3>Reward</h3>
      <dl className="facts small">
        {Object.entries(detail.rewards).map(([name, value]) => <Fact key={name} name={name}>{number(value)}</Fact>)}
        <Fact name="Sum"><strong>{number(detail.reward)}</strong></Fact>
        <Fact name="Advantage">{detail.advantage === null ? "–" : signed(detail.advantage)}</Fact>
        <Fact name="Extracted"><code>{verdict["extracted"] || "–"}</code> {verdict["extraction_method"] ? <Badge plain>{verdict["extraction_method"]}</Badge> : null}</Fact>
        <Fact name="Compared as"><code>{verdict["normalized_answer"] || "–"}</code> with <code>{verdict["normalized_gold"] || detail.gold}</code></Fact>
        <Fact name="By">{words(String(verdict["compare_path"] ?? "–"))}</Fact>
        <Fact name="Verifier">{number(Number(verdict["cpu_ms"] ?? 0))} ms CPU, {number(Number(verdict["wall_ms"] ?? 0))} ms wall</Fact>
      </dl>
    </section>
  );
}

function Fact({ name, children }: { name: string; children: React.ReactNode }) {
  return <><dt>{name}</dt><dd className="num">{children}</dd></>;
}

function Numbers({ detail, replay }: { detail: TrajectoryDetail; replay: Replay }) {
  return (
    <section className="card stats" aria-label="Numbers">
      <Stat name="Visible tokens">{number(detail.visible_len)}</Stat>
      <Stat name="Steps">{number(replay.numSteps)}</Stat>
      <Stat name="Tokens per step">{number(replay.tokens.length / Math.max(1, replay.numSteps))}</Stat>
      <Stat name="Forward passes">{number(detail.num_forwards)}</Stat>
      <Stat name="Ended by">{detail.finish_reason}</Stat>
      <Stat name="Weights">{number(detail.weight_version)}</Stat>
    </section>
  );
}

function Unsure({ replay, onSeek }: { replay: Replay; onSeek: (at: number) => void }) {
  return (
    <section className="card" aria-label="Least sure">
      <h3>Least sure of</h3>
      <ul className="unsure">
        {leastSure(replay, UNSURE_SHOWN).map((token) => (
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
