/** Attempts of the job, with the prompt accounting of each attempt that resumed an earlier one. */
import { unwrap, api } from "../../api/client";
import type { Attempt, Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { duration, number } from "../../format";
import { Badge, Digest, Empty, ErrorNote, Loading, type Tone, When } from "../../ui/parts";

const TONES: Record<string, Tone> = { running: "active", succeeded: "good", failed: "bad", stopped: "warn" };

type Accounting = Record<string, unknown> & { dropped?: Record<string, number> };

export function AttemptsTab({ job, updates }: { job: Job; updates: number }) {
  const path = { path: { job_id: job.id } };
  const { data, error } = useQuery(`attempts ${job.id}`, (signal) =>
    Promise.all([unwrap(api.GET("/v1/jobs/{job_id}/attempts", { params: path, signal })), unwrap(api.GET("/v1/jobs/{job_id}/certificate", { params: path, signal }))]), { updates });
  if (error) return <ErrorNote error={error} />;
  if (data === undefined) return <Loading what="attempts" height={240} />;
  const [attempts, certificates] = data;
  if (attempts.data.length === 0) return <Empty title="No attempts yet"><p>The first attempt starts when a trainer and enough rollout replicas are free.</p></Empty>;
  const accountings = new Map(certificates.data.map((item) => [item.attempt, item.certificate as Accounting]));
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
  const count = (name: string) => Number(accounting[name] ?? 0);
  const dropped = Object.entries(accounting.dropped ?? {});
  const droppedSum = dropped.reduce((sum, [, value]) => sum + value, 0);
  const isVerified = count("lost") === 0 && count("trained_twice") === 0 && accounting["digest_before"] === accounting["digest_after"];
  return (
    <div className={`note ${isVerified ? "good" : "bad"}`}>
      <strong>{isVerified ? "Prompt accounting verified: every prompt was trained exactly once or dropped with a reason" : "Prompt accounting failed: prompts were lost or trained twice, or the loaded weights differ from the saved ones"}</strong>
      <span className="num">
        {number(count("issued"))} prompts issued: {number(count("trained"))} trained, {number(droppedSum)} dropped
        {dropped.length > 0 ? ` (${dropped.map(([reason, value]) => `${value} ${reason.replaceAll("_", " ")}`).join(", ")})` : ""}, {number(count("open"))} in flight,{" "}
        {number(count("lost"))} lost, {number(count("trained_twice"))} trained twice
      </span>
      <span>Weights at resume: <Digest value={String(accounting["digest_before"])} /> (saved) {accounting["digest_before"] === accounting["digest_after"] ? "=" : "≠"} <Digest value={String(accounting["digest_after"])} /> (loaded)</span>
    </div>
  );
}
