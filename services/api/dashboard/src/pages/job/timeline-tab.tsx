/** Timeline of the learner's phases: which lane is busy, and which waits for another. */
import { useMemo, useState } from "react";

import { unwrap, api } from "../../api/client";
import type { Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { duration } from "../../format";
import { Empty, ErrorNote, Loading, Segments, useNow } from "../../ui/parts";
import { FINISHED } from "../job-state";
import { LANES, thinMarks, type Span, spansOf, type StepMark, stepsOf, totals } from "./phases";

type Window = "120" | "600" | "all";
const MAX_EVENTS = 1000;
/** Step numbers that fit without overlap at a width of 1280 px. */
const MAX_NUMBERS = 20;

export function TimelineTab({ job, updates }: { job: Job; updates: number }) {
  const [shown, setShown] = useState<Window>("600");
  const now = useNow();
  const newest = (type: string[]) => (signal: AbortSignal) =>
    unwrap(api.GET("/v1/jobs/{job_id}/events", { params: { path: { job_id: job.id }, query: { type, order: "desc", limit: MAX_EVENTS } }, signal }));
  const { data, error } = useQuery(`phases ${job.id}`, newest(["phase", "attempt"]), { updates });
  const { data: progress } = useQuery(`steps ${job.id}`, newest(["progress"]), { updates });
  const isOver = FINISHED.includes(job.state) || job.state === "paused";
  const end = isOver ? (job.finished_at ?? lastTime(data?.data)) : now;
  const spans = useMemo(() => spansOf([...(data?.data ?? [])].reverse(), end), [data, end]);
  const visible = useMemo(() => clipSpans(spans, shown === "all" ? 0 : end - Number(shown)), [spans, shown, end]);
  const steps = useMemo(() => stepsOf([...(progress?.data ?? [])].reverse(), visible[0]?.start ?? 0, visible.at(-1)?.end ?? 0), [progress, visible]);
  if (error) return <ErrorNote error={error} />;
  if (data === undefined) return <Loading what="the timeline" height={300} />;
  if (spans.length === 0) return <Empty title="No phases yet"><p>Phases appear when the learner has started.</p></Empty>;
  return (
    <div className="stack">
      <div className="row apart">
        <p className="muted small">Solid: busy. Hatched: waiting for another lane. Numbers mark the end of a step.</p>
        <Segments label="Window" value={shown} onChange={setShown} options={[{ value: "120", label: "2 minutes" }, { value: "600", label: "10 minutes" }, { value: "all", label: "All" }]} />
      </div>
      <div className="card"><Gantt spans={visible} steps={steps} /></div>
      <div className="card">
        <h2>Time breakdown</h2>
        <Totals spans={visible} />
      </div>
    </div>
  );
}

function lastTime(events: readonly { time: number }[] | undefined): number {
  return events?.[0]?.time ?? 0;
}

function clipSpans(spans: readonly Span[], from: number): Span[] {
  return spans.filter((span) => span.end > from).map((span) => ({ ...span, start: Math.max(span.start, from) }));
}

function Gantt({ spans, steps }: { spans: readonly Span[]; steps: readonly StepMark[] }) {
  const first = spans[0]?.start ?? 0;
  const total = Math.max(1, (spans.at(-1)?.end ?? 1) - first);
  const place = (time: number) => ((time - first) / total) * 100;
  const numbered = thinMarks(steps, total / MAX_NUMBERS);
  return (
    <div className="gantt" role="img" aria-label={`Phases over ${duration(total)}: ${totals(spans).map((item) => `${item.phase} ${duration(item.seconds)}`).join(", ")}`}>
      <div className="lane">
        <span className="lane-name small">Step</span>
        <div className="lane-steps muted small num">
          {numbered.map((mark) => <span key={mark.time} style={{ left: `${place(mark.time)}%` }} title={`End of step ${mark.step}, +${duration(mark.time - first)}`}>{mark.step}</span>)}
        </div>
      </div>
      {LANES.map((lane) => (
        <div key={lane.name} className="lane">
          <span className="lane-name small">{lane.name}</span>
          <div className="lane-track">
            {mergeSpans(spans, lane.busy, lane.waits).map((span) => (
              <i
                key={span.start}
                className={lane.busy.includes(span.phase) ? `busy phase-${span.phase}` : "waiting"}
                style={{ left: `${place(span.start)}%`, width: `${Math.max(0.1, place(span.end) - place(span.start))}%` }}
                title={`${lane.busy.includes(span.phase) ? span.phase : "waiting"} · ${span.stage} · ${duration(span.end - span.start)}`}
              />
            ))}
            {numbered.map((mark) => <b key={mark.time} style={{ left: `${place(mark.time)}%` }} />)}
          </div>
        </div>
      ))}
      <div className="lane">
        <span />
        <div className="lane-scale muted small num">
          {[0, 0.25, 0.5, 0.75, 1].map((share) => <span key={share}>{share === 0 ? "0 s" : `+${duration(total * share)}`}</span>)}
        </div>
      </div>
    </div>
  );
}

/** Spans of one lane with adjacent spans of the same phase merged, which bounds the DOM nodes of long jobs. */
function mergeSpans(spans: readonly Span[], busy: readonly string[], waits: readonly string[]): Span[] {
  const drawn: Span[] = [];
  for (const span of spans) {
    if (!busy.includes(span.phase) && !waits.includes(span.phase)) continue;
    const last = drawn.at(-1);
    if (last && last.phase === span.phase && span.start - last.end < 0.01) last.end = span.end;
    else drawn.push({ ...span });
  }
  return drawn;
}

function Totals({ spans }: { spans: readonly Span[] }) {
  const rows = totals(spans);
  const sum = rows.reduce((total, row) => total + row.seconds, 0) || 1;
  return (
    <ul className="totals">
      {rows.map((row) => (
        <li key={row.phase}>
          <span>{row.phase.replace("_", " ")}</span>
          <span className="bar"><i className={`phase-${row.phase}`} style={{ width: `${(row.seconds / sum) * 100}%` }} /></span>
          <span className="num">{duration(row.seconds)}</span>
          <span className="num muted">{((row.seconds / sum) * 100).toFixed(0)} %</span>
        </li>
      ))}
    </ul>
  );
}
