/** Checkpoints with their weights hashes; each can be exported, forked or rewound to. */
import { useState } from "react";

import { useCapabilities } from "../../api/capabilities";
import { unwrap, api, type ApiError, callPath } from "../../api/client";
import type { Checkpoint, Job } from "../../api/types";
import { asError, useQuery } from "../../api/use-query";
import { bytes, number } from "../../format";
import { navigate } from "../../router";
import { Badge, CodeBlock, Digest, Empty, ErrorNote, Loading, When } from "../../ui/parts";
import { FINISHED } from "../job-state";

export function CheckpointsTab({ job, updates }: { job: Job; updates: number }) {
  const { data, error } = useQuery(`checkpoints ${job.id}`, (signal) => unwrap(api.GET("/v1/jobs/{job_id}/checkpoints", { params: { path: { job_id: job.id } }, signal })), { updates });
  const [failure, setFailure] = useState<ApiError>();
  if (error) return <ErrorNote error={error} />;
  if (data === undefined) return <Loading what="checkpoints" height={240} />;
  if (data.data.length === 0) return <Empty title="No checkpoints yet"><p>A checkpoint is saved every {job.spec["checkpoint"] ? String((job.spec["checkpoint"] as { interval_steps: number }).interval_steps) : ""} steps and at the end of each stage.</p></Empty>;
  const newest = data.data.at(-1);
  return (
    <div className="stack">
      {failure && <ErrorNote error={failure} />}
      <div className="card flush table-scroll" tabIndex={0} role="region" aria-label="Checkpoints">
        <table>
          <thead>
            <tr><th scope="col" className="num">Step</th><th scope="col">Stage</th><th scope="col">Checkpoint</th><th scope="col">Weights hash</th><th scope="col" className="num">Version</th><th scope="col" className="num">Size</th><th scope="col" className="num">Saved</th><th scope="col"><span className="hidden-visually">Actions</span></th></tr>
          </thead>
          <tbody>
            {[...data.data].reverse().map((item) => (
              <tr key={item.id}>
                <td className="num">{number(item.step)}</td>
                <td>{item.stage}</td>
                <td><code>{item.id}</code> {item.id === job.result_checkpoint && <Badge tone="good" plain>final</Badge>}</td>
                <td><Digest value={item.weight_digest} /></td>
                <td className="num">{number(item.weight_version)}</td>
                <td className="num">{bytes(item.bytes)}</td>
                <td className="num"><When time={item.created_at} /></td>
                <td><Actions job={job} checkpoint={item} onError={setFailure} /></td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {newest && <Commands checkpoint={newest} />}
    </div>
  );
}

function Actions({ job, checkpoint, onError }: { job: Job; checkpoint: Checkpoint; onError: (error: ApiError | undefined) => void }) {
  const { offers } = useCapabilities();
  const [exported, setExported] = useState("");
  const attempt = (action: () => Promise<void>) => {
    onError(undefined);
    action().catch((caught: unknown) => onError(asError(caught)));
  };
  const fork = async () => navigate(`/jobs/${(await callPath<Job>("POST", `/v1/jobs/${job.id}/fork`, { checkpoint: checkpoint.id })).id}`);
  const rewind = async () => navigate(`/jobs/${(await callPath<Job>("POST", `/v1/jobs/${job.id}/rewind`, { checkpoint: checkpoint.id })).id}`);
  const isIdle = FINISHED.includes(job.state) || job.state === "paused";
  return (
    <div className="row" style={{ justifyContent: "flex-end", flexWrap: "nowrap" }}>
      {exported !== "" && <span className="muted small" role="status">{exported}</span>}
      <button type="button" className="button small" onClick={() => attempt(() => runExport(checkpoint, setExported))}>Export</button>
      {offers("post", "/v1/jobs/{job_id}/fork") && <button type="button" className="button small" onClick={() => attempt(fork)}>Fork</button>}
      {isIdle && offers("post", "/v1/jobs/{job_id}/rewind") && <button type="button" className="button small" onClick={() => attempt(rewind)}>Rewind</button>}
    </div>
  );
}

const EXPORT_POLL_MS = 1000;

/** Start the export, poll until it ends, and report its state. */
async function runExport(checkpoint: Checkpoint, report: (text: string) => void): Promise<void> {
  report("Exporting …");
  let state = await unwrap(api.POST("/v1/checkpoints/{checkpoint_id}/export", { params: { path: { checkpoint_id: checkpoint.id } } }));
  while (state.state === "queued" || state.state === "running") {
    await new Promise((resolve) => setTimeout(resolve, EXPORT_POLL_MS));
    state = await unwrap(api.GET("/v1/exports/{export_id}", { params: { path: { export_id: state.id } } }));
  }
  report(state.state === "succeeded" ? (state.model_id ?? "Exported") : `Failed: ${state.error?.message ?? ""}`);
}

function Commands({ checkpoint }: { checkpoint: Checkpoint }) {
  return (
    <div className="card stack tight">
      <h2>Equivalent commands</h2>
      <CodeBlock label="Commands" text={`dirl models export ${checkpoint.id} --out ./trained\ndirl generate "Tom had 27 figs, got 45" --model ./trained`} />
    </div>
  );
}
