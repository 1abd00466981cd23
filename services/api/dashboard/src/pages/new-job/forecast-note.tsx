/** What a dry run says of a job: whether it can run, how long it is, what it needs, and what the model makes of its prompts. */
import type { ReactNode } from "react";

import { ApiError } from "../../api/client";
import type { Forecast } from "../../api/types";
import { bytes, duration, number, percent } from "../../format";
import { CodeBlock, ErrorNote, Stat } from "../../ui/parts";

export function ForecastNote({ forecast }: { forecast: Forecast }) {
  return (
    <section className="card stack tight" aria-label="Forecast" role="status">
      {forecast.accepted
        ? <div className="note good"><strong>The job can be submitted.</strong></div>
        : <ErrorNote error={new ApiError("The job keeps the rules, but this would stop it:", 0, "forecast", forecast.problems)} />}
      <div className="stats">
        {Object.entries(forecast.steps).map(([stage, steps]) => <Stat key={stage} name={`Steps of ${stage}`}>{number(steps)}</Stat>)}
        <Stat name="Parameters">{number(forecast.parameters)}</Stat>
        <Stat name="Memory, at least" title="Weights, gradients and optimizer state">{bytes(forecast.memory_bytes)}</Stat>
        {forecast.activation_bytes !== null && <Stat name="A training pass, about" title="Activations, on top of that">{bytes(forecast.activation_bytes)}</Stat>}
        {forecast.seconds !== null && <Stat name={`Time, at the pace of ${forecast.seconds_from ?? "an earlier job"}`} title={forecast.seconds_are_rough ? "Of another model, scaled by the number of parameters" : undefined}>{forecast.seconds_are_rough && "roughly "}{duration(forecast.seconds)}</Stat>}
        <Stat name="Checkpoints on disk">{bytes(forecast.disk_bytes)} <span className="muted small">of {bytes(forecast.disk_free_bytes)} free</span></Stat>
      </div>
      <dl className="facts small">
        {Object.entries(forecast.files).map(([file, report]) => (
          <Fact key={file} name={<code>{file}</code>}>
            {number(report.rows)} rows: {number(report.sft_rows)} with a completion, {number(report.rl_rows)} with a gold answer; {longest(report)}
          </Fact>
        ))}
        <Fact name="Prompts tried">{tried(forecast)}</Fact>
      </dl>
      <details><summary className="small">The spec with all defaults</summary><CodeBlock label="Spec with defaults" text={JSON.stringify(forecast.spec, null, 2)} /></details>
    </section>
  );
}

function longest(report: Forecast["files"][string]): string {
  if (report.longest_sample_tokens === null) return `longest prompt ${number(report.longest_prompt_chars)} characters`;
  const dropped = report.rows_too_long ? `; ${number(report.rows_too_long)} rows are too long and will be dropped` : "";
  return `longest sample ${number(report.longest_sample_tokens)} tokens${dropped}`;
}

function tried({ probe, probe_skipped: why }: Forecast): string {
  if (probe === null) return `none. ${why ?? ""}`;
  return `${number(probe.prompts)}, ${number(probe.generations)} responses each: ${number(probe.all_correct)} all right, ${number(probe.all_wrong)} all wrong, ${percent(probe.zero_variance_rate)} without a signal to learn from`;
}

function Fact({ name, children }: { name: ReactNode; children: ReactNode }) {
  return <><dt>{name}</dt><dd className="num">{children}</dd></>;
}
