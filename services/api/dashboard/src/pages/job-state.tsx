/** Display of a job's state. */
import type { Job, JobState } from "../api/types";
import { duration, number, humanize } from "../format";
import { Badge, Meter, type Tone, useNow } from "../ui/parts";

export const STATE_TONES: Record<JobState, Tone> = {
  validating_files: "neutral", queued: "neutral", provisioning: "active", running: "active", pausing: "warn",
  paused: "warn", cancelling: "warn", succeeded: "good", failed: "bad", cancelled: "neutral",
};

export const FINISHED: readonly JobState[] = ["succeeded", "failed", "cancelled"];

export function StateBadge({ job }: { job: Job }) {
  return <Badge tone={STATE_TONES[job.state]}>{humanize(job.state)}</Badge>;
}

/** Error, awaited resource or current phase of the job. */
export function stateDetail(job: Job): string {
  if (job.error !== null) return humanize(job.error.code);
  if (job.waiting_reason) return "Cannot be placed";
  if (job.waiting_for !== null) return `Waiting for ${job.waiting_for}`;
  if (job.state === "running" && job.phase !== null) return [job.stage, humanize(job.phase)].filter(Boolean).join(" · ");
  return "";
}

/** Display name: the suffix, or the end of the id. */
export function jobName(job: Job): string {
  return job.suffix ?? job.id.slice(-8);
}

export function JobProgress({ job }: { job: Job }) {
  const progress = job.progress;
  const tone: Tone = job.state === "running" || job.state === "provisioning" ? "active" : STATE_TONES[job.state];
  return (
    <div className="job-progress">
      <div className="row apart small">
        <span className="num">{progress === null ? "–" : `step ${number(progress.step)} of ${number(progress.total_steps)}`}</span>
        <span className="muted num"><JobDuration job={job} /></span>
      </div>
      <Meter value={progress?.fraction ?? 0} tone={tone} label="Progress" />
    </div>
  );
}

/** Total duration of a finished job, remaining time of one with an estimate, else elapsed time. */
export function JobDuration({ job }: { job: Job }) {
  const now = useNow();
  if (job.finished_at !== null) return <>{job.started_at === null ? "" : `Duration ${duration(job.finished_at - job.started_at)}`}</>;
  if (job.estimated_finish !== null) return <>{job.estimated_finish > now ? `${duration(job.estimated_finish - now)} left` : "past the estimated time"}</>;
  return <>{job.started_at === null ? "" : `Elapsed ${duration(Math.max(0, now - job.started_at))}`}</>;
}
