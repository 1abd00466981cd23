/** Logs of the job's services, where the installation offers them. */
import { useState } from "react";

import { callPath } from "../../api/client";
import type { Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { absolute } from "../../format";
import { Empty, ErrorNote, Loading } from "../../ui/parts";

interface Line {
  id: string;
  time: number | null;
  level: string;
  message: string;
  fields: Record<string, unknown>;
}

interface Lines {
  data: Line[];
  has_more: boolean;
}

const SERVICES = ["learner", "rollout-1", "reward", "trainer", "worker"];
const EVERY_MS = 3000;
const PAGE = 500;

export function LogsTab({ job }: { job: Job }) {
  const [service, setService] = useState("learner");
  const [attempt, setAttempt] = useState(job.attempt);
  const query = new URLSearchParams({ service, limit: String(PAGE), ...(attempt > 0 ? { attempt: String(attempt) } : {}) });
  const { data, error } = useQuery(`logs ${job.id} ${query}`, (signal) => callPath<Lines>("GET", `/v1/jobs/${job.id}/logs?${query}`, undefined, signal), { every: EVERY_MS });
  return (
    <div className="stack">
      <div className="row">
        <label className="check">Service <select value={service} onChange={(event) => setService(event.target.value)}>{SERVICES.map((name) => <option key={name}>{name}</option>)}</select></label>
        <label className="check">Attempt <select value={attempt} onChange={(event) => setAttempt(Number(event.target.value))}>{Array.from({ length: Math.max(1, job.attempt) }, (_, place) => <option key={place} value={place + 1}>{place + 1}</option>)}</select></label>
      </div>
      {error && <ErrorNote error={error} />}
      {data === undefined ? !error && <Loading what="the log" height={300} /> : data.data.length === 0 ? <Empty title="No logs yet"><p>Lines appear when the service writes them.</p></Empty> : (
        <pre className="log card" tabIndex={0} aria-label={`Log of ${service}`}>
          {data.data.map((line) => <span key={line.id} className={`line ${line.level}`} title={line.time === null ? undefined : absolute(line.time)}>{formatLine(line)}{"\n"}</span>)}
        </pre>
      )}
      {data?.has_more && <p className="muted small">Showing the first {PAGE} lines. <code>dirl jobs logs</code> prints all of them.</p>}
    </div>
  );
}

function formatLine(line: Line): string {
  const clock = line.time === null ? "        " : new Date(line.time * 1000).toTimeString().slice(0, 8);
  const fields = Object.entries(line.fields).map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return [clock, line.level.padEnd(7), line.message, ...fields].join(" ");
}
