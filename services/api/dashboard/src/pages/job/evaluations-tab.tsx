/** Evaluations of the job: reward, accuracy where a grader compares with reference answers, and accuracy vs. speed. */
import { unwrap, api } from "../../api/client";
import type { Evaluation, Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { duration, number, percent } from "../../format";
import { Empty, ErrorNote, Loading, When } from "../../ui/parts";
import { Frontier } from "./frontier";
import { pointsOf, settingOf } from "./frontier-points";

export function EvaluationsTab({ job, updates }: { job: Job; updates: number }) {
  const { data, error } = useQuery(`evals ${job.id}`, (signal) => unwrap(api.GET("/v1/jobs/{job_id}/evals", { params: { path: { job_id: job.id } }, signal })), { updates });
  if (error) return <ErrorNote error={error} />;
  if (data === undefined) return <Loading what="evaluations" height={300} />;
  if (data.data.length === 0) return <Empty title="No evaluations yet"><p>A job with a validation file is evaluated at the end of each stage and every <code>eval.interval_steps</code> steps.</p></Empty>;
  const hasAccuracy = data.data.some((item) => "accuracy" in item.results);
  const hasPass = data.data.some((item) => "pass_at_k" in item.results);
  return (
    <div className="stack">
      <Frontier points={pointsOf(data.data, [job])} />
      <div className="card flush table-scroll" tabIndex={0} role="region" aria-label="Evaluations">
        <table>
          <thead>
            <tr>
              <th scope="col" className="num">Step</th><th scope="col">Stage</th><th scope="col">Dataset</th><th scope="col">Decoding</th>
              <th scope="col" className="num">Reward</th><th scope="col">95 % CI</th>
              {hasAccuracy && <><th scope="col" className="num">Accuracy</th><th scope="col">95 % CI</th></>}
              {hasPass && <th scope="col" className="num">Pass@k</th>}
              <th scope="col" className="num">Tokens per step</th><th scope="col" className="num" title="Accuracy under parallelism, over the decodings evaluated at the end of a stage">AUP</th><th scope="col" className="num">Mean length</th><th scope="col" className="num">Prompts</th><th scope="col" className="num">Duration</th><th scope="col" className="num">Time</th>
            </tr>
          </thead>
          <tbody>{[...data.data].reverse().map((item) => <Row key={item.id} item={item} job={job} hasAccuracy={hasAccuracy} hasPass={hasPass} />)}</tbody>
        </table>
      </div>
    </div>
  );
}

interface RowProps {
  item: Evaluation;
  job: Job;
  hasAccuracy: boolean;
  hasPass: boolean;
}

function Row({ item, job, hasAccuracy, hasPass }: RowProps) {
  const value = (name: string) => item.results[name] as number | undefined;
  const unverifiable = value("num_unverifiable") ?? 0;
  return (
    <tr>
      <td className="num">{number(item.step)}</td>
      <td>{item.stage}</td>
      <td>{item.dataset}</td>
      <td className="muted">{settingOf(item, job)}</td>
      <td className="num"><strong>{number(value("reward"))}</strong></td>
      <td className="num muted">{number(value("reward_low"))} – {number(value("reward_high"))}</td>
      {hasAccuracy && <td className="num"><strong>{percent(value("accuracy"))}</strong></td>}
      {hasAccuracy && <td className="num muted">{percent(value("accuracy_low"))} – {percent(value("accuracy_high"))}</td>}
      {hasPass && <td className="num">{percent(value("pass_at_k"))}</td>}
      <td className="num">{number(value("tokens_per_step"))}</td>
      <td className="num">{number(value("aup"))}</td>
      <td className="num">{number(value("mean_response_length"))}</td>
      <td className="num" title={unverifiable > 0 ? `${unverifiable} responses could not be graded and are excluded` : undefined}>{number(value("num_prompts"))}{unverifiable > 0 ? " *" : ""}</td>
      <td className="num">{duration(value("seconds"))}</td>
      <td className="num"><When time={item.created_at} /></td>
    </tr>
  );
}
