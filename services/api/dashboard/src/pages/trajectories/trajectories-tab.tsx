/** The groups that were kept, one group's responses side by side, and the replay of one. */
import { useCallback, useState } from "react";

import { answer, api } from "../../api/client";
import type { Group, GroupQuery, Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { number, words } from "../../format";
import { Link, navigate, useSearchParam } from "../../router";
import { Badge, Empty, ErrorNote, Loading } from "../../ui/parts";
import { OutcomeBadge, OutcomeDots, OUTCOMES, signed } from "./outcome";
import { ReplayView } from "./replay-view";

interface Props {
  job: Job;
  trajectoryId: string | null;
  /** Counts groups that came since the page was opened. */
  news: number;
}

export function TrajectoriesTab({ job, trajectoryId, news }: Props) {
  return trajectoryId === null ? <GroupTable job={job} news={news} /> : <OneTrajectory key={trajectoryId} job={job} id={trajectoryId} />;
}

const PAGE = 30;
const MOST = 200;
type Outcome = (typeof OUTCOMES)[number];

function GroupTable({ job, news }: { job: Job; news: number }) {
  const [outcome, setOutcome] = useSearchParam("outcome");
  const [purpose, setPurpose] = useSearchParam("purpose");
  const [step, setStep] = useSearchParam("step");
  const [open, setOpen] = useSearchParam("group");
  const [size, setSize] = useState(PAGE);
  const query = {
    limit: size,
    ...(outcome === "mixed" ? { mixed: true } : outcome ? { outcome: outcome as Outcome } : {}),
    ...(purpose ? { purpose: purpose as "train" | "eval" } : {}),
    ...(step ? { step: Number(step) } : {}),
  };
  const { groups, error, hasMore, newer, showNewer } = useGroups(job, query, news);
  const pinned = usePinned(job, groups, open);
  const shown = pinned === undefined ? groups : [pinned, ...(groups ?? [])];
  const narrow = (set: (value: string) => void) => (event: { target: { value: string } }) => {
    setOpen(null);
    set(event.target.value);
  };
  return (
    <div className="stack">
      <div className="row">
        <select aria-label="Outcome" value={outcome ?? ""} onChange={narrow(setOutcome)}>
          <option value="">Any outcome</option>
          <option value="mixed">Mixed outcomes</option>
          {OUTCOMES.map((name) => <option key={name} value={name}>some {words(name)}</option>)}
        </select>
        <select aria-label="Purpose" value={purpose ?? ""} onChange={narrow(setPurpose)}>
          <option value="">Training and evaluation</option>
          <option value="train">Training</option>
          <option value="eval">Evaluation</option>
        </select>
        <input type="number" min={0} aria-label="Step" placeholder="Step" style={{ width: 90 }} value={step ?? ""} onChange={narrow(setStep)} />
        {newer > 0 && <button type="button" className="button" title="Groups that were kept since this list was read" onClick={showNewer}>Show newer ({number(newer)})</button>}
      </div>
      {error && <ErrorNote error={error} />}
      {shown === undefined ? !error && <Loading what="groups" height={320} /> : shown.length === 0 ? <NoGroups job={job} isFiltered={Boolean(outcome || purpose || step)} /> : (
        <div className="card flush table-scroll" tabIndex={0} role="region" aria-label="Groups">
          <table className="groups">
            <thead>
              <tr><th scope="col" className="num">Step</th><th scope="col">Prompt</th><th scope="col">Gold</th><th scope="col">Outcomes</th><th scope="col" className="num">Reward</th><th scope="col" className="num" title="Weight versions between sampling and training">Staleness</th><th scope="col">Became</th></tr>
            </thead>
            {shown.map((group) => <GroupRows key={group.id} job={job} group={group} isOpen={open === group.id} onToggle={() => setOpen(open === group.id ? null : group.id)} />)}
          </table>
        </div>
      )}
      {hasMore && size < MOST && <button type="button" className="button" onClick={() => setSize(Math.min(MOST, size + PAGE))}>Show more</button>}
    </div>
  );
}

/** The newest groups of a query. The list holds still while new ones come: a row that is read must not move. */
function useGroups(job: Job, query: GroupQuery, news: number) {
  const [seen, setSeen] = useState(news);
  const { data, error } = useQuery(`groups ${job.id} ${JSON.stringify(query)}`, (signal) =>
    answer(api.GET("/v1/jobs/{job_id}/groups", { params: { path: { job_id: job.id }, query }, signal })), { news: seen, keeps: true });
  if (data?.data.length === 0 && seen !== news) setSeen(news);
  return { groups: data?.data, error, hasMore: data?.has_more ?? false, newer: news - seen, showNewer: () => setSeen(news) };
}

/** The open group where the list lacks it: newer ones pushed it out, or a link names one that is not among the newest. */
function usePinned(job: Job, groups: readonly Group[] | undefined, open: string | null): Group | undefined {
  const listed = groups?.find((group) => group.id === open);
  const [last, setLast] = useState(listed);
  if (listed !== undefined && listed !== last) setLast(listed);
  const isMissing = open !== null && groups !== undefined && listed === undefined;
  const isKnown = last?.id === open;
  const { data } = useQuery(`group ${open}`, (signal) =>
    answer(api.GET("/v1/jobs/{job_id}/groups", { params: { path: { job_id: job.id }, query: { group_id: open ?? "" } }, signal })), { enabled: isMissing && !isKnown });
  if (!isMissing) return undefined;
  return isKnown ? last : data?.data[0];
}

function NoGroups({ job, isFiltered }: { job: Job; isFiltered: boolean }) {
  if (isFiltered) return <Empty title="No group matches"><p>Change the filters.</p></Empty>;
  const kept = (job.spec["rl"] as { logged_groups_per_step?: number } | undefined)?.logged_groups_per_step;
  return <Empty title="No trajectories yet"><p>Evaluations and reinforcement learning keep some of their groups ({kept} per step here: <code>rl.logged_groups_per_step</code>).</p></Empty>;
}

interface RowsProps {
  job: Job;
  group: Group;
  isOpen: boolean;
  onToggle: () => void;
}

function GroupRows({ job, group, isOpen, onToggle }: RowsProps) {
  const rewards = group.rewards.filter((reward) => reward !== null);
  const spread = rewards.length === 0 ? "–" : `${number(Math.min(...rewards))} to ${number(Math.max(...rewards))}`;
  return (
    <tbody>
      <tr className={`link ${isOpen ? "chosen" : ""}`} onClick={onToggle}>
        <td className="num">{number(group.step)}</td>
        <td className="prompt-cell">
          <button type="button" className="row-button clip" aria-expanded={isOpen} title={group.prompt ?? undefined} onClick={(event) => { event.stopPropagation(); onToggle(); }}>
            {group.prompt === null ? group.id : question(group.prompt)}
          </button>
        </td>
        <td><code className="clip">{group.gold}</code></td>
        <td><OutcomeDots outcomes={group.outcomes} /></td>
        <td className="num">{spread}</td>
        <td className="num">{group.staleness ?? "–"}</td>
        <td><Badge plain>{words(group.disposition)}</Badge></td>
      </tr>
      {isOpen && (
        <tr className="chosen"><td colSpan={7} className="responses-cell"><Responses job={job} group={group} /></td></tr>
      )}
    </tbody>
  );
}

/** The user's turn of a chat prompt on one line. */
export function question(prompt: string): string {
  return prompt.replace(/^\s*(system\n[^]*?\n)?user\n/, "").replace(/\n?assistant\s*$/, "").replaceAll("\n", " ").trim();
}

function Responses({ job, group }: { job: Job; group: Group }) {
  const { data, error } = useQuery(`responses ${group.id}`, (signal) =>
    answer(api.GET("/v1/jobs/{job_id}/trajectories", { params: { path: { job_id: job.id }, query: { group_id: group.id, limit: 100 } }, signal })));
  if (error) return <ErrorNote error={error} />;
  return (
    <div className="responses fade-in" style={{ minHeight: 150 }}>
      {data?.data.map((item) => (
        <Link key={item.id} to={`/jobs/${job.id}/trajectories/${item.id}`} className="response card">
          <div className="row apart"><OutcomeBadge outcome={item.outcome} /><span className="num small muted">{item.advantage === null ? "" : signed(item.advantage)}</span></div>
          <pre>{item.text || " "}</pre>
          <div className="small muted num">{number(item.visible_len)} tokens · {number(item.num_steps)} steps · replay</div>
        </Link>
      ))}
    </div>
  );
}

function OneTrajectory({ job, id }: { job: Job; id: string }) {
  const { data, error } = useQuery(`trajectory ${id}`, (signal) => answer(api.GET("/v1/trajectories/{trajectory_id}", { params: { path: { trajectory_id: id } }, signal })));
  const siblings = useQuery(`siblings ${data?.group_id ?? ""}`, (signal) =>
    answer(api.GET("/v1/jobs/{job_id}/trajectories", { params: { path: { job_id: job.id }, query: { group_id: data?.group_id ?? "", limit: 100 } }, signal })), { enabled: data !== undefined });
  const others = siblings.data?.data;
  const goBy = useCallback((by: number) => {
    const place = others?.findIndex((item) => item.id === id) ?? -1;
    const next = others?.[place + by];
    if (place >= 0 && next) navigate(`/jobs/${job.id}/trajectories/${next.id}`, { replace: true });
  }, [others, id, job.id]);
  if (error) return <ErrorNote error={error} />;
  if (data === undefined) return <Loading what="the trajectory" height={500} />;
  return (
    <div className="stack tight">
      <div className="row">
        <Link to={`/jobs/${job.id}/trajectories?group=${data.group_id}`}>All groups</Link>
        <span className="muted">/</span>
        <span>step {number(data.step)}, response {data.response_index + 1}{others ? ` of ${others.length}` : ""}</span>
        <span className="grow" />
        <span className="siblings">
          {others?.map((item) => (
            <Link key={item.id} to={`/jobs/${job.id}/trajectories/${item.id}`} aria-current={item.id === id ? "page" : undefined} aria-label={`Response ${item.response_index + 1}: ${item.outcome ?? "ungraded"}`} title={item.text}>
              <i className={item.outcome === "correct" ? "good" : item.outcome === "incorrect" ? "bad" : "neutral"} />
              {item.response_index + 1}
            </Link>
          ))}
        </span>
      </div>
      {data.prompt !== null && <p className="question">{question(data.prompt.replace(/<\|[^|>]*\|>/g, ""))}</p>}
      <ReplayView detail={data} onSibling={goBy} />
    </div>
  );
}
