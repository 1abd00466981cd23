/** State, progress and key metrics of the job. */
import { type Job, latestMetric } from "../../api/types";
import { number, humanize } from "../../format";
import { Badge, Copy, ErrorNote, Stat, When } from "../../ui/parts";
import { ApiError } from "../../api/client";
import { FINISHED, JobProgress, jobName, StateBadge } from "../job-state";
import { headlineScore } from "../headline-score";
import { isRestart, isVerified } from "./accounting";
import { Diagnosis } from "./diagnosis";
import { JobActions } from "./job-actions";
import type { LiveJob } from "./use-live-job";

/** `isBrief` hides progress and metrics on tabs that need the space. */
export function JobHeader({ live, job, isBrief }: { live: LiveJob; job: Job; isBrief: boolean }) {
  const isFinished = FINISHED.includes(job.state);
  const score = headlineScore(job);
  return (
    <header className="stack tight">
      <div className="page-head">
        <div className="stack tight">
          <div className="row">
            <h1>{jobName(job)}</h1>
            <StateBadge job={job} />
            {job.waiting_for !== null && <Badge tone="warn">{job.waiting_reason ? "Cannot be placed" : `Waiting for ${job.waiting_for}`}</Badge>}
            {job.retry_at && <Badge tone="warn">Next attempt <When time={job.retry_at} /></Badge>}
            <CertificateBadge certificate={job.certificate} />
            {job.stalled && <Badge tone="bad">stalled in {humanize(job.stalled.phase)} since <When time={job.stalled.since} /></Badge>}
            {job.revision > 0 && <Badge plain>revision {job.revision}</Badge>}
            {!live.connected && !isFinished && <Badge tone="warn">Connection lost. Reconnecting …</Badge>}
          </div>
          <div className="row muted small">
            <span className="copyable"><code>{job.id}</code></span>
            <Copy text={job.id} label="Copy id" />
            {job.forked_from !== null && <span>forked from <code>{job.forked_from}</code></span>}
            <span>submitted <When time={job.created_at} /></span>
            {Object.entries(job.metadata).map(([key, value]) => <Badge key={key} plain>{key}: {value}</Badge>)}
          </div>
        </div>
        <JobActions job={job} onDone={live.refresh} />
      </div>
      {isBrief ? null : <div className="card stack tight">
        <JobProgress job={job} />
        <div className="stats">
          <Stat name="Stage">{job.stage === null || job.stage === "" ? "–" : `${job.stage}${job.progress ? ` ${number(job.progress.stage_step)}/${number(job.progress.stage_steps)}` : ""}`}</Stat>
          <Stat name="Phase">{job.phase === null ? "–" : humanize(job.phase)}</Stat>
          <Stat name="Attempt">{job.attempt === 0 ? "–" : job.attempt}</Stat>
          <Stat name={`Validation ${score.name}`}>{score.format(latestMetric(job, score.validation))}</Stat>
          <Stat name={`Rollout ${score.name}`}>{score.format(latestMetric(job, score.rollouts))}</Stat>
          <Stat name="Tokens per step" title="Tokens per denoising step">{number(latestMetric(job, "diffusion/tokens_per_step") ?? latestMetric(job, "eval/validation/tokens_per_step"))}</Stat>
          <Stat name="Loss">{number(latestMetric(job, "train/loss"))}</Stat>
        </div>
      </div>}
      {job.error !== null && <ErrorNote error={new ApiError(job.error.message, 0, job.error.code)} />}
      {live.error && <ErrorNote error={live.error} />}
      <Diagnosis job={job} />
    </header>
  );
}

/** Shown when the worst certificate of all attempts does not hold, or says that the job began anew. */
function CertificateBadge({ certificate }: { certificate: Job["certificate"] }) {
  if (!certificate) return null;
  if (!isVerified(certificate)) return <Badge tone="bad">Prompt accounting failed</Badge>;
  return isRestart(certificate) ? <Badge tone="warn">Restarted from step 0</Badge> : null;
}
