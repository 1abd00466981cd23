/** Comparison of up to six jobs: results, metrics and spec differences. */
import { useDeferredValue, useMemo, useState } from "react";

import { unwrap, api } from "../../api/client";
import { type Job, latestMetric } from "../../api/types";
import { useQuery } from "../../api/use-query";
import type { Axis } from "../../charts/drawing";
import { CHARTS, type ChartSpec, DEFAULT_METRICS, MetricChart } from "../../charts/metric-chart";
import type { Series } from "../../charts/series";
import { SmoothingSlider } from "../../charts/smoothing-slider";
import type { Range } from "../../charts/uplot-chart";
import { number, percent } from "../../format";
import { Link, useSearchParam } from "../../router";
import { Empty, ErrorNote, Loading } from "../../ui/parts";
import { Frontier } from "../job/frontier";
import { pointsOf } from "../job/frontier-points";
import { JobDuration, jobName, StateBadge } from "../job-state";
import { findDifferences } from "./spec-differences";

const MAX_JOBS = 6;
const EVERY_MS = 5000;
const POINTS = 600;
const COMPARED = ["accuracy", "reward", "loss", "entropy", "grad-norm", "tokens-per-step"];
const STEPS: Axis = { kind: "step", secondsOf: (step) => step };

export default function ComparePage() {
  const [wanted] = useSearchParam("jobs");
  const ids = (wanted ?? "").split(",").filter(Boolean).slice(0, MAX_JOBS);
  const { data, error, reload } = useQuery(`compare ${ids.join()}`, (signal) => Promise.all(ids.map((id) => unwrap(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: id } }, signal })))), { every: EVERY_MS, enabled: ids.length > 0 });
  if (ids.length < 2) {
    return (
      <Empty title="Nothing to compare">
        <p>Select two to six jobs on the <Link to="/">Jobs</Link> page.</p>
      </Empty>
    );
  }
  return (
    <div className="stack">
      <div className="page-head"><h1>Compare {ids.length} jobs</h1><Link to="/" className="button">All jobs</Link></div>
      {error && <ErrorNote error={error} onRetry={reload} />}
      {data === undefined ? !error && <Loading what="jobs" height={400} /> : <Comparison jobs={data} />}
    </div>
  );
}

function Comparison({ jobs }: { jobs: readonly Job[] }) {
  const [smoothing, setSmoothing] = useState(0);
  const deferredSmoothing = useDeferredValue(smoothing);
  const [range, setRange] = useState<Range>(null);
  const { data, error } = useQuery(`series ${jobs.map((job) => job.id).join()}`, (signal) =>
    unwrap(api.GET("/v1/metrics", { params: { query: { job_id: jobs.map((job) => job.id), names: [...DEFAULT_METRICS], downsample: POINTS } }, signal })), { every: EVERY_MS });
  const lookUp = useMemo(() => {
    const found = new Map((data?.data ?? []).map((item) => [`${item.job_id} ${item.name}`, item]));
    return (job: Job, metric: string): Series | undefined => found.get(`${job.id} ${metric}`);
  }, [data]);
  const charts = CHARTS.filter((chart) => COMPARED.includes(chart.id));
  return (
    <>
      <ResultsTable jobs={jobs} />
      {error && <ErrorNote error={error} />}
      <div className="row apart">
        <h2>Metrics</h2>
        <div className="row">
          {range && <button type="button" className="button small" onClick={() => setRange(null)}>Reset zoom</button>}
          <SmoothingSlider value={smoothing} onChange={setSmoothing} />
        </div>
      </div>
      <div className="charts">
        {charts.map((chart) => (
          <ComparedChart key={chart.id} chart={chart} jobs={jobs} lookUp={lookUp} smoothing={deferredSmoothing} range={range} onRange={setRange} />
        ))}
      </div>
      <ComparedFrontier jobs={jobs} />
      <SpecDifferences jobs={jobs} />
    </>
  );
}

interface ChartProps {
  chart: ChartSpec;
  jobs: readonly Job[];
  lookUp: (job: Job, metric: string) => Series | undefined;
  smoothing: number;
  range: Range;
  onRange: (range: Range) => void;
}

/** The first metric of the chart that any job reports; one line per job. */
function ComparedChart({ chart, jobs, lookUp, smoothing, range, onRange }: ChartProps) {
  const line = chart.lines.find(({ metric }) => jobs.some((job) => lookUp(job, metric))) ?? chart.lines[0];
  const names = toDistinctNames(jobs);
  const lines = jobs.map((job, place) => ({ label: names[place] ?? job.id, series: line && lookUp(job, line.metric) }));
  const points = lines.reduce((sum, item) => sum + (item.series?.steps.length ?? 0), 0);
  const titled = { ...chart, title: chart.lines.length > 1 ? `${chart.title} · ${line?.label ?? ""}` : chart.title };
  return <MetricChart chart={titled} lines={lines} markers={[]} smoothing={smoothing} axis={STEPS} range={range} onRange={onRange} sync="compare" version={points} />;
}

function toDistinctNames(jobs: readonly Job[]): string[] {
  const names = jobs.map(jobName);
  return names.map((name, place) => (names.indexOf(name) === names.lastIndexOf(name) ? name : `${name} ${jobs[place]?.id.slice(-4) ?? ""}`));
}

function ResultsTable({ jobs }: { jobs: readonly Job[] }) {
  const names = toDistinctNames(jobs);
  return (
    <div className="card flush table-scroll" tabIndex={0} role="region" aria-label="Results">
      <table>
        <thead><tr><th scope="col">Job</th><th scope="col">State</th><th scope="col">Method</th><th scope="col" className="num">Reward</th><th scope="col" className="num">Accuracy</th><th scope="col" className="num">Steps</th><th scope="col" className="num">Time</th></tr></thead>
        <tbody>
          {jobs.map((job, place) => (
            <tr key={job.id}>
              <td><span className="swatch" style={{ background: `var(--series-${place + 1})` }} /><Link to={`/jobs/${job.id}`}>{names[place]}</Link></td>
              <td><StateBadge job={job} /></td>
              <td>{job.method}</td>
              <td className="num">{number(latestMetric(job, "eval/validation/reward"))}</td>
              <td className="num">{percent(latestMetric(job, "eval/validation/accuracy"))}</td>
              <td className="num">{job.progress ? `${job.progress.step} of ${job.progress.total_steps}` : "–"}</td>
              <td className="num"><JobDuration job={job} /></td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Accuracy vs. speed of the last evaluation of each job. */
function ComparedFrontier({ jobs }: { jobs: readonly Job[] }) {
  const progress = jobs.map((job) => job.progress?.step ?? 0).join();
  const { data } = useQuery(`last evals ${jobs.map((job) => job.id).join()}`, (signal) =>
    Promise.all(jobs.map((job) => unwrap(api.GET("/v1/jobs/{job_id}/evals", { params: { path: { job_id: job.id } }, signal })))), { updates: progress });
  const last = (data ?? []).flatMap((page) => page.data.slice(-1));
  return <Frontier points={pointsOf(last, jobs, jobName)} />;
}

function SpecDifferences({ jobs }: { jobs: readonly Job[] }) {
  const rows = findDifferences(jobs.map((job) => job.spec));
  const names = toDistinctNames(jobs);
  return (
    <section className="card flush" aria-label="Spec differences">
      <h2 style={{ padding: "12px 16px 4px" }}>Spec differences</h2>
      {rows.length === 0 ? <p className="muted" style={{ padding: "0 16px 12px" }}>The specs are identical.</p> : (
        <div className="table-scroll" tabIndex={0} role="region" aria-label="Differences">
          <table>
            <thead><tr><th scope="col">Parameter</th>{jobs.map((job, place) => <th scope="col" key={job.id}>{names[place]}</th>)}</tr></thead>
            <tbody>
              {rows.map((row) => (
                <tr key={row.path}><th scope="row"><code>{row.path}</code></th>{row.values.map((value, place) => <td key={place}><code>{value}</code></td>)}</tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}
