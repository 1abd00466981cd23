/** List of jobs with their progress and accuracy, updated live. */
import { useMemo, useState } from "react";

import { useCapabilities } from "../../api/capabilities";
import { unwrap, api, ApiError } from "../../api/client";
import { type Job, type JobState, latestMetric, type MetricName } from "../../api/types";
import { asError, useQuery } from "../../api/use-query";
import { Sparkline } from "../../charts/sparkline";
import { baseName } from "../../format";
import { Link, navigate, useSearchParam } from "../../router";
import { Empty, ErrorNote, Loading, When } from "../../ui/parts";
import { headlineScore } from "../headline-score";
import { JobProgress, jobName, StateBadge, stateDetail } from "../job-state";

const EVERY_MS = 2000;
const PAGE = 50;
/** Maximum page size of the API. */
const MAX_SHOWN = 1000;
const MAX_COMPARED = 6;
/** Curves of a job, the preferred one first. */
const CURVES: MetricName[] = ["reward/accuracy", "eval/validation/accuracy", "reward/mean", "eval/validation/reward"];
const STATES: readonly { value: string; label: string; states: readonly JobState[] }[] = [
  { value: "active", label: "Active", states: ["validating_files", "queued", "provisioning", "running", "pausing", "cancelling"] },
  { value: "paused", label: "Paused", states: ["paused"] },
  { value: "succeeded", label: "Succeeded", states: ["succeeded"] },
  { value: "failed", label: "Failed", states: ["failed"] },
  { value: "cancelled", label: "Cancelled", states: ["cancelled"] },
];

export function JobsPage() {
  const [state, setState] = useSearchParam("state");
  const [method, setMethod] = useSearchParam("method");
  const [search, setSearch] = useSearchParam("q");
  const [size, setSize] = useState(PAGE);
  const [chosen, setChosen] = useState<readonly string[]>([]);
  const states = STATES.find((item) => item.value === state)?.states;
  const q = search ?? "";
  const jobs = useQuery(
    `jobs ${state} ${method} ${size} ${q}`,
    (signal) => unwrap(api.GET("/v1/jobs", { params: { query: { limit: size, q, ...(states ? { status: [...states] } : {}), ...(method ? { method } : {}) } }, signal })),
    { every: EVERY_MS, keepsData: true },
  );
  const found = jobs.data?.data ?? [];
  const curves = useScores(found);
  const isFiltered = state !== null || method !== null || q !== "";
  const toggle = (id: string) => setChosen((old) => (old.includes(id) ? old.filter((item) => item !== id) : [...old, id].slice(-MAX_COMPARED)));
  return (
    <div className="stack">
      <div className="page-head">
        <h1>Jobs</h1>
        <div className="row">
          <button type="button" className="button" disabled={chosen.length < 2} title="Select two to six jobs to compare" onClick={() => navigate(`/compare?jobs=${chosen.join(",")}`)}>
            Compare{chosen.length > 0 ? ` ${chosen.length}` : ""}
          </button>
          <Link to="/new" className="button primary">
            New job
          </Link>
        </div>
      </div>
      <div className="row">
        <input type="search" aria-label="Search jobs" placeholder="Search name, id, model, metadata" className="search" value={q} maxLength={200} onChange={(event) => setSearch(event.target.value)} />
        <select aria-label="State" value={state ?? ""} onChange={(event) => setState(event.target.value)}>
          <option value="">Any state</option>
          {STATES.map((item) => <option key={item.value} value={item.value}>{item.label}</option>)}
        </select>
        <select aria-label="Method" value={method ?? ""} onChange={(event) => setMethod(event.target.value)}>
          <option value="">Any method</option>
          {["sft", "rl", "eval", "pipeline"].map((item) => <option key={item} value={item}>{item}</option>)}
        </select>
      </div>
      {jobs.error && <ErrorNote error={jobs.error} onRetry={jobs.reload} />}
      {jobs.data === undefined ? (
        !jobs.error && <div className="card"><Loading what="jobs" height={320} /></div>
      ) : found.length === 0 ? (
        <div className="card">{isFiltered ? <NothingFound /> : <NoJobs />}</div>
      ) : (
        <JobTable jobs={found} curves={curves} chosen={chosen} onToggle={toggle} />
      )}
      {jobs.data?.has_more && (size < MAX_SHOWN ? <button type="button" className="button" onClick={() => setSize(size + PAGE)}>Show more</button> : <p className="muted">Showing the newest {MAX_SHOWN} jobs. Search or filter to find older ones.</p>)}
    </div>
  );
}

interface Curve {
  name: MetricName;
  values: number[];
}

/** Curve per job: accuracy where a grader compares with reference answers, else reward; of rollouts, else of evaluations. */
function useScores(jobs: readonly Job[]): Map<string, Curve> {
  const ids = jobs.map((job) => job.id);
  const progress = jobs.map((job) => job.progress?.step ?? 0).join();
  const { data } = useQuery(
    `scores ${ids.join()}`,
    (signal) => unwrap(api.GET("/v1/metrics", { params: { query: { job_id: ids.slice(0, 100), names: CURVES, downsample: 40 } }, signal })),
    { enabled: ids.length > 0, updates: progress, keepsData: true },
  );
  return useMemo(() => {
    const curves = new Map<string, Curve>();
    for (const name of CURVES) {
      for (const series of data?.data ?? []) {
        if (series.name === name && !curves.has(series.job_id)) curves.set(series.job_id, { name, values: series.values });
      }
    }
    return curves;
  }, [data]);
}

interface TableProps {
  jobs: readonly Job[];
  curves: Map<string, Curve>;
  chosen: readonly string[];
  onToggle: (id: string) => void;
}

function JobTable({ jobs, curves, chosen, onToggle }: TableProps) {
  return (
    <div className="card flush table-scroll" tabIndex={0} role="region" aria-label="Jobs">
      <table className="jobs-table">
        <thead>
          <tr>
            <th scope="col"><span className="hidden-visually">Compare</span></th>
            <th scope="col">Job</th>
            <th scope="col">State</th>
            <th scope="col">Progress</th>
            <th scope="col">Score</th>
            <th scope="col" className="num">Created</th>
          </tr>
        </thead>
        <tbody>
          {jobs.map((job) => (
            <tr key={job.id} className="link" onClick={() => navigate(`/jobs/${job.id}`)}>
              <td onClick={(event) => event.stopPropagation()}>
                <input type="checkbox" aria-label={`Compare ${jobName(job)}`} checked={chosen.includes(job.id)} onChange={() => onToggle(job.id)} />
              </td>
              <td>
                <Link to={`/jobs/${job.id}`} className="job-name" onClick={(event) => event.stopPropagation()}>{jobName(job)}</Link>
                <div className="muted small clip"><code>{job.id}</code> · {job.method} · {baseName(job.model)}</div>
              </td>
              <td>
                <StateBadge job={job} />
                <div className="muted small clip" title={job.error?.message}>{stateDetail(job) || " "}</div>
              </td>
              <td><JobProgress job={job} /></td>
              <td><Score job={job} curve={curves.get(job.id)} /></td>
              <td className="num"><When time={job.created_at} /></td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Score({ job, curve }: { job: Job; curve: Curve | undefined }) {
  const { name, validation, format } = headlineScore(job);
  const values = curve?.values ?? [];
  const domain: [number, number] = name === "accuracy" ? [0, 1] : [Math.min(0, ...values), Math.max(1, ...values)];
  return (
    <div className="row accuracy" title={`Curve: ${name} of rollouts if available. Number: last evaluation.`}>
      <Sparkline values={values} domain={domain} label={name} />
      <span className="num">{format(latestMetric(job, validation) ?? values.at(-1))}</span>
      {name === "reward" && values.length > 0 && <span className="muted small">reward</span>}
    </div>
  );
}

function NothingFound() {
  return (
    <Empty title="No job matches">
      <p>Change the search or the filters.</p>
      <Link to="/" className="button">Show all jobs</Link>
    </Empty>
  );
}

function NoJobs() {
  const { offers } = useCapabilities();
  const [error, setError] = useState<ApiError>();
  const [isStarting, setStarting] = useState(false);
  const start = async () => {
    setStarting(true);
    setError(undefined);
    try {
      const job = await unwrap(api.POST("/v1/demo", {}));
      navigate(`/jobs/${job.id}`);
    } catch (caught) {
      setError(asError(caught));
      setStarting(false);
    }
  };
  return (
    <Empty title="No jobs yet">
      <p>The demo trains a small block-diffusion model on arithmetic problems in a few minutes: supervised fine-tuning, reinforcement learning and evaluation.</p>
      <div className="row">
        {offers("post", "/v1/demo") && (
          <button type="button" className="button primary" disabled={isStarting} onClick={() => void start()}>
            {isStarting ? "Preparing data and model …" : "Start demo job"}
          </button>
        )}
        <Link to="/new" className="button">Create a job</Link>
      </div>
      {error && <ErrorNote error={error} />}
    </Empty>
  );
}
