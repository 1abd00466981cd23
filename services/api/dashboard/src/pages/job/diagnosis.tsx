/** Why the job makes no progress, in one sentence, where the API offers a diagnosis. */
import { useCapabilities } from "../../api/capabilities";
import { callPath } from "../../api/client";
import type { Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { humanize } from "../../format";
import { FINISHED } from "../job-state";

const PATH = "/v1/jobs/{job_id}/diagnosis";
const EVERY_MS = 10_000;

interface DiagnosisResponse {
  code: string;
  sentence: string;
  /** Values for keys of the job spec. */
  suggestion: Record<string, unknown>;
}

export function Diagnosis({ job }: { job: Job }) {
  const { offers } = useCapabilities();
  const isOver = FINISHED.includes(job.state);
  const { data } = useQuery(`diagnosis ${job.id} ${job.state}`, (signal) => callPath<DiagnosisResponse>("GET", PATH.replace("{job_id}", job.id), undefined, signal), {
    enabled: offers("get", PATH) && !isOver,
    every: EVERY_MS,
  });
  if (data === undefined) return null;
  const suggested = Object.entries(data.suggestion);
  return (
    <p className="muted small" role="status">
      <strong>Diagnosis: {humanize(data.code)}.</strong> {data.sentence}
      {suggested.map(([key, value]) => <code key={key}> {key} = {JSON.stringify(value)}</code>)}
    </p>
  );
}
