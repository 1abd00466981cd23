/** Executions of the job, and what each proved about the prompts when it took up the work of another. */
import { answer, api } from "../../api/client";
import type { Attempt, Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { duration, number } from "../../format";
import { Badge, Digest, Empty, ErrorNote, Loading, type Tone, When } from "../../ui/parts";

const TONES: Record<string, Tone> = { running: "active", succeeded: "good", failed: "bad", stopped: "warn" };

type Proof = Record<string, unknown> & { dropped?: Record<string, number> };

export function AttemptsTab({ job, news }: { job: Job; news: number }) {
  const path = { path: { job_id: job.id } };
  const { data, error } = useQuery(`attempts ${job.id}`, (signal) =>
    Promise.all([answer(api.GET("/v1/jobs/{job_id}/attempts", { params: path, signal })), answer(api.GET("/v1/jobs/{job_id}/certificate", { params: path, signal }))]), { news });
  if (error) return <ErrorNote error={error} />;
  if (data === undefined) return <Loading what="attempts" height={240} />;
  const [attempts, certificates] = data;
  if (attempts.data.length === 0) return <Empty title="No attempt yet"><p>The first begins once a trainer and the replicas are free.</p></Empty>;
  const proofs = new Map(certificates.data.map((item) => [item.attempt, item.certificate as Proof]));
  return (
    <div className="stack">
      {[...attempts.data].reverse().map((attempt) => <AttemptCard key={attempt.id} attempt={attempt} proof={proofs.get(attempt.number)} />)}
    </div>
  );
}

function AttemptCard({ attempt, proof }: { attempt: Attempt; proof: Proof | undefined }) {
  const took = attempt.ended_at !== null && attempt.started_at !== null ? duration(attempt.ended_at - attempt.started_at) : null;
  return (
    <section className="card stack tight" aria-label={`Attempt ${attempt.number}`}>
      <div className="row"><h2>Attempt {attempt.number}</h2><Badge tone={TONES[attempt.state] ?? "neutral"}>{attempt.state}</Badge></div>
      <dl className="facts">
        <dt>Started</dt><dd><When time={attempt.started_at} /></dd>
        {took && <><dt>Took</dt><dd className="num">{took}</dd></>}
        <dt>Trainer</dt><dd><code>{attempt.trainer}</code></dd>
        {attempt.replicas.length > 0 && <><dt>Replicas</dt><dd><code>{attempt.replicas.join(", ")}</code></dd></>}
        {attempt.number > 1 && attempt.resumed_from !== null && <><dt>Went on from</dt><dd className="num">step {number(attempt.resumed_from)}</dd></>}
      </dl>
      {attempt.error && <div className="note bad">{attempt.error.message}</div>}
      {proof && <Certificate proof={proof} />}
    </section>
  );
}

function Certificate({ proof }: { proof: Proof }) {
  const count = (name: string) => Number(proof[name] ?? 0);
  const dropped = Object.entries(proof.dropped ?? {});
  const droppedSum = dropped.reduce((sum, [, value]) => sum + value, 0);
  const holds = count("lost") === 0 && count("trained_twice") === 0 && proof["digest_before"] === proof["digest_after"];
  return (
    <div className={`note ${holds ? "good" : "bad"}`}>
      <strong>Certificate: {holds ? "it holds" : "it does not hold"}</strong>
      <span className="num">
        {number(count("issued"))} prompts issued = {number(count("trained"))} trained + {number(droppedSum)} dropped
        {dropped.length > 0 ? ` (${dropped.map(([reason, value]) => `${value} ${reason.replaceAll("_", " ")}`).join(", ")})` : ""} + {number(count("open"))} open;{" "}
        {number(count("lost"))} lost, {number(count("trained_twice"))} trained twice
      </span>
      <span>Weights before <Digest value={String(proof["digest_before"])} /> and after <Digest value={String(proof["digest_after"])} /></span>
    </div>
  );
}
