/** Attempts of the job, with the prompt accounting of each attempt that resumed an earlier one. */
import { unwrap, api } from "../../api/client";
import type { Attempt, Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { duration, number } from "../../format";
import { type Accounting, count, dropped, isRestart, isVerified } from "./accounting";
import { Badge, Digest, Empty, ErrorNote, Loading, type Tone, When } from "../../ui/parts";

const TONES: Record<string, Tone> = { running: "active", succeeded: "good", failed: "bad", stopped: "warn" };

export function AttemptsTab({ job, updates }: { job: Job; updates: number }) {
  const path = { path: { job_id: job.id } };
  const { data, error } = useQuery(`attempts ${job.id}`, (signal) =>
    Promise.all([unwrap(api.GET("/v1/jobs/{job_id}/attempts", { params: path, signal })), unwrap(api.GET("/v1/jobs/{job_id}/certificate", { params: path, signal }))]), { updates });
  if (error) return <ErrorNote error={error} />;
  if (data === undefined) return <Loading what="attempts" height={240} />;
  const [attempts, certificates] = data;
  if (attempts.data.length === 0) return <Empty title="No attempts yet"><p>The first attempt starts when a trainer and enough rollout replicas are free.</p></Empty>;
  const accountings = new Map(certificates.data.map((item) => [item.attempt, item.certificate]));
  return (
    <div className="stack">
      {[...attempts.data].reverse().map((attempt) => <AttemptCard key={attempt.id} attempt={attempt} accounting={accountings.get(attempt.number)} />)}
    </div>
  );
}

function AttemptCard({ attempt, accounting }: { attempt: Attempt; accounting: Accounting | undefined }) {
  const took = attempt.ended_at !== null && attempt.started_at !== null ? duration(attempt.ended_at - attempt.started_at) : null;
  return (
    <section className="card stack tight" aria-label={`Attempt ${attempt.number}`}>
      <div className="row"><h2>Attempt {attempt.number}</h2><Badge tone={TONES[attempt.state] ?? "neutral"}>{attempt.state}</Badge></div>
      <dl className="definitions">
        <dt>Started</dt><dd><When time={attempt.started_at} /></dd>
        {took && <><dt>Duration</dt><dd className="num">{took}</dd></>}
        <dt>Trainer</dt><dd><code>{attempt.trainer}</code></dd>
        {attempt.replicas.length > 0 && <><dt>Replicas</dt><dd><code>{attempt.replicas.join(", ")}</code></dd></>}
        {attempt.number > 1 && attempt.resumed_from !== null && <><dt>Resumed from</dt><dd className="num">step {number(attempt.resumed_from)}</dd></>}
      </dl>
      {attempt.error && <div className="note bad">{attempt.error.message}</div>}
      {accounting && <PromptAccounting accounting={accounting} />}
    </section>
  );
}

function PromptAccounting({ accounting }: { accounting: Accounting }) {
  const drops = dropped(accounting);
  const value = (name: string) => number(count(accounting, name));
  const verified = isVerified(accounting);
  const skipped = (accounting["skipped_checkpoints"] ?? []) as string[];
  return (
    <>
      {isRestart(accounting) && <div className="note warn"><strong>Restarted from step 0: {value("steps_undone")} steps were undone, because no checkpoint verified.</strong></div>}
      {skipped.length > 0 && <div className="note warn">{skipped.map((reason) => <span key={reason}>{reason}</span>)}</div>}
      <div className={`note ${verified ? "good" : "bad"}`}>
        <strong>{verified ? "Prompt accounting verified: every prompt was trained exactly once or dropped with a reason" : "Prompt accounting failed: prompts were lost or trained twice, or the loaded weights differ from the saved ones"}</strong>
        <span className="num">
          {value("issued")} prompts issued: {value("trained")} trained, {number(drops.reduce((sum, [, each]) => sum + each, 0))} dropped
          {drops.length > 0 ? ` (${drops.map(([reason, each]) => `${each} ${reason.replaceAll("_", " ")}`).join(", ")})` : ""}, {value("open")} in flight,{" "}
          {value("lost")} lost, {value("trained_twice")} trained twice
        </span>
        {accounting["digest_before"] !== null && <span>Weights at resume: <Digest value={String(accounting["digest_before"])} /> (saved) {accounting["digest_before"] === accounting["digest_after"] ? "=" : "≠"} <Digest value={String(accounting["digest_after"])} /> (loaded)</span>}
      </div>
    </>
  );
}
