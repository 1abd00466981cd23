/** A job's state as people see it. */
import type { Job, JobState } from "../api/types";
import { duration, number, words } from "../format";
import { Badge, Meter, type Tone, useNow } from "../ui/parts";

export const STATE_TONES: Record<JobState, Tone> = {
  validating_files: "neutral", queued: "neutral", provisioning: "active", running: "active", pausing: "warn",
  paused: "warn", cancelling: "warn", succeeded: "good", failed: "bad", cancelled: "neutral",
};

export const FINISHED: readonly JobState[] = ["succeeded", "failed", "cancelled"];

export function StateBadge({ job }: { job: Job }) {
  return <Badge tone={STATE_TONES[job.state]}>{words(job.state)}</Badge>;
}

/** What it does now, or waits for, or died of. */
export function stateDetail(job: Job): string {
  if (job.error !== null) return words(job.error.code);
  if (job.waiting_for !== null) return `waits for ${job.waiting_for}`;
  if (job.state === "running" && job.phase !== null) return [job.stage, words(job.phase)].filter(Boolean).join(" · ");
  return "";
}

/** A name for people: the suffix, else the end of the id. */
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
        <span className="muted num"><Eta job={job} /></span>
      </div>
      <Meter value={progress?.fraction ?? 0} tone={tone} label="Progress" />
    </div>
  );
}

/** Time that is left, or that it took. */
export function Eta({ job }: { job: Job }) {
  const now = useNow();
  if (job.finished_at !== null) return <>{job.started_at === null ? "" : `took ${duration(job.finished_at - job.started_at)}`}</>;
  if (job.estimated_finish !== null) return <>{job.estimated_finish > now ? `${duration(job.estimated_finish - now)} left` : "later than estimated"}</>;
  return <>{job.started_at === null ? "" : `${duration(Math.max(0, now - job.started_at))} so far`}</>;
}
