/** Pass rate of every prompt over the steps that used it. */
import { useState } from "react";
import { unwrap, api } from "../../api/client";
import type { Job, Prompt } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { Sparkline } from "../../charts/sparkline";
import { number, percent } from "../../format";
import { Empty, ErrorNote, Loading } from "../../ui/parts";

const ORDERS = { row: "Data set order", hardest: "Lowest pass rate first", easiest: "Highest pass rate first" } as const;
type Order = keyof typeof ORDERS;
const SHOWN = 200;

export function PromptsTab({ job, updates }: { job: Job; updates: number }) {
  const [order, setOrder] = useState<Order>("hardest");
  const { data, error } = useQuery(`prompts ${job.id} ${order}`, (signal) =>
    unwrap(api.GET("/v1/jobs/{job_id}/prompts", { params: { path: { job_id: job.id }, query: { order, limit: SHOWN } }, signal })), { updates });
  if (error) return <ErrorNote error={error} />;
  if (data === undefined) return <Loading what="prompts" height={300} />;
  if (data.data.length === 0) return <Empty title="No prompts yet"><p>Pass rates appear after the first step of reinforcement learning.</p></Empty>;
  return (
    <div className="stack">
      <label className="row">Order{" "}
        <select value={order} onChange={(event) => { setOrder(event.target.value as Order); }}>
          {Object.entries(ORDERS).map(([key, label]) => <option key={key} value={key}>{label}</option>)}
        </select>
      </label>
      <div className="card flush table-scroll" tabIndex={0} role="region" aria-label="Prompts">
        <table>
          <thead>
            <tr>
              <th scope="col" className="num">Row</th><th scope="col">Prompt</th><th scope="col" className="num">Attempts</th>
              <th scope="col" className="num">Successes</th><th scope="col" className="num">Pass rate</th><th scope="col">Over time</th><th scope="col" className="num">Last step</th>
            </tr>
          </thead>
          <tbody>{data.data.map((prompt) => <Row key={prompt.id} prompt={prompt} />)}</tbody>
        </table>
      </div>
      {data.has_more && <p className="muted">The first {number(SHOWN)} prompts in this order. All: <code>GET /v1/jobs/{job.id}/prompts</code></p>}
    </div>
  );
}

function Row({ prompt }: { prompt: Prompt }) {
  return (
    <tr>
      <td className="num">{number(prompt.row)}</td>
      <td>{prompt.excerpt}</td>
      <td className="num">{number(prompt.attempts)}</td>
      <td className="num">{number(prompt.successes)}</td>
      <td className="num"><strong>{percent(prompt.pass_rate)}</strong></td>
      <td><Sparkline values={prompt.pass_rates} label="Pass rate" domain={[0, 1]} /></td>
      <td className="num">{number(prompt.steps.at(-1))}</td>
    </tr>
  );
}
