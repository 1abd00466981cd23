/** Result of a dry run: whether the job can run, its steps, memory, disk space, time, and trial rollouts. */
import type { ReactNode } from "react";

import { ApiError } from "../../api/client";
import type { Estimate } from "../../api/types";
import { bytes, duration, number, percent } from "../../format";
import { CodeBlock, ErrorNote, Stat } from "../../ui/parts";

export function EstimateNote({ estimate }: { estimate: Estimate }) {
  return (
    <section className="card stack tight" aria-label="Estimate" role="status">
      {estimate.accepted
        ? <div className="note good"><strong>Ready to submit</strong></div>
        : <ErrorNote error={new ApiError("The spec is valid, but this would prevent the job from running:", 0, "estimate", estimate.problems)} />}
      <div className="stats">
        {Object.entries(estimate.steps).map(([stage, steps]) => <Stat key={stage} name={`Steps (${stage})`}>{number(steps)}</Stat>)}
        <Stat name="Parameters">{number(estimate.parameters)}</Stat>
        <Stat name="Minimum memory" title="Weights, gradients and optimizer state">{bytes(estimate.memory_bytes)}</Stat>
        {estimate.activation_bytes !== null && <Stat name="Activation memory (estimate)" title="In addition to the minimum memory">{bytes(estimate.activation_bytes)}</Stat>}
        {estimate.seconds !== null && <Stat name={`Estimated time (from ${estimate.seconds_from ?? "an earlier job"})`} title={estimate.seconds_are_rough ? "From a job with another model, scaled by the number of parameters" : undefined}>{estimate.seconds_are_rough && "~"}{duration(estimate.seconds)}</Stat>}
        <Stat name="Checkpoints on disk">{bytes(estimate.disk_bytes)} <span className="muted small">of {bytes(estimate.disk_free_bytes)} free</span></Stat>
      </div>
      <dl className="definitions small">
        {Object.entries(estimate.files).map(([file, report]) => (
          <Definition key={file} name={<code>{file}</code>}>
            {number(report.rows)} rows: {number(report.sft_rows)} with a completion, {number(report.rl_rows)} with a reference answer; {longest(report)}
          </Definition>
        ))}
        <Definition name="Trial rollouts">{describeTrials(estimate)}</Definition>
      </dl>
      <details><summary className="small">Full spec (defaults included)</summary><CodeBlock label="Full spec" text={JSON.stringify(estimate.spec, null, 2)} /></details>
    </section>
  );
}

function longest(report: Estimate["files"][string]): string {
  if (report.longest_sample_tokens === null) return `longest prompt ${number(report.longest_prompt_chars)} characters`;
  const dropped = report.rows_too_long ? `; ${number(report.rows_too_long)} rows exceed the limit and will be dropped` : "";
  return `longest sample ${number(report.longest_sample_tokens)} tokens${dropped}`;
}

function describeTrials({ probe, probe_skipped: why }: Estimate): string {
  if (probe === null) return `None. ${why ?? ""}`;
  const correct = probe.all_correct === null ? "" : `${number(probe.all_correct)} all correct, ${number(probe.all_wrong)} all incorrect, `;
  return `${number(probe.prompts)} prompts with ${number(probe.generations)} responses each: mean reward ${number(probe.reward_mean)}, ${correct}${percent(probe.zero_variance_rate)} with equal rewards`;
}

function Definition({ name, children }: { name: ReactNode; children: ReactNode }) {
  return <><dt>{name}</dt><dd className="num">{children}</dd></>;
}
