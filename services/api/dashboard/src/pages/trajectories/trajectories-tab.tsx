/** Logged groups, the responses of one group, and the replay of one response. */
import { useCallback, useState } from "react";

import { unwrap, api } from "../../api/client";
import type { Group, GroupQuery, Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { number } from "../../format";
import { Link, navigate, useSearchParam } from "../../router";
import { Badge, Empty, ErrorNote, Loading } from "../../ui/parts";
import { describeDisposition, OUTCOME_NOUNS, OutcomeBadge, OutcomeDots, OUTCOMES, formatSigned } from "./outcome";
import { ReplayView } from "./replay-view";

interface Props {
  job: Job;
  trajectoryId: string | null;
  /** Number of groups logged since the page was opened. */
  updates: number;
}

export function TrajectoriesTab({ job, trajectoryId, updates }: Props) {
  return trajectoryId === null ? <GroupTable job={job} updates={updates} /> : <TrajectoryPage key={trajectoryId} job={job} id={trajectoryId} />;
}

const PAGE = 30;
const MAX_SHOWN = 200;
type Outcome = (typeof OUTCOMES)[number];

function GroupTable({ job, updates }: { job: Job; updates: number }) {
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
  const { groups, error, hasMore, newer, showNewer } = useGroups(job, query, updates);
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
          {OUTCOMES.map((name) => <option key={name} value={name}>Has {OUTCOME_NOUNS[name]}</option>)}
        </select>
        <select aria-label="Purpose" value={purpose ?? ""} onChange={narrow(setPurpose)}>
          <option value="">Training and evaluation</option>
          <option value="train">Training</option>
          <option value="eval">Evaluation</option>
        </select>
        <input type="number" min={0} aria-label="Step" placeholder="Step" style={{ width: 90 }} value={step ?? ""} onChange={narrow(setStep)} />
        {newer > 0 && <button type="button" className="button" title="Groups logged since this list was loaded" onClick={showNewer}>Show newer ({number(newer)})</button>}
      </div>
      {error && <ErrorNote error={error} />}
      {shown === undefined ? !error && <Loading what="groups" height={320} /> : shown.length === 0 ? <NoGroups job={job} isFiltered={Boolean(outcome || purpose || step)} /> : (
        <div className="card flush table-scroll" tabIndex={0} role="region" aria-label="Groups">
          <table className="groups">
            <thead>
              <tr><th scope="col" className="num">Step</th><th scope="col">Prompt</th><th scope="col">Reference answer</th><th scope="col">Outcomes</th><th scope="col" className="num">Reward mean (min–max)</th><th scope="col" className="num" title="Weight versions between sampling and training">Staleness</th><th scope="col">Used for</th></tr>
            </thead>
            {shown.map((group) => <GroupRows key={group.id} job={job} group={group} isOpen={open === group.id} onToggle={() => setOpen(open === group.id ? null : group.id)} />)}
          </table>
        </div>
      )}
      {hasMore && size < MAX_SHOWN && <button type="button" className="button" onClick={() => setSize(Math.min(MAX_SHOWN, size + PAGE))}>Show more</button>}
    </div>
  );
}

/** The newest groups of a query. New groups are not inserted until the user asks, so that rows do not move while being read. */
function useGroups(job: Job, query: GroupQuery, updates: number) {
  const [seen, setSeen] = useState(updates);
  const { data, error } = useQuery(`groups ${job.id} ${JSON.stringify(query)}`, (signal) =>
    unwrap(api.GET("/v1/jobs/{job_id}/groups", { params: { path: { job_id: job.id }, query }, signal })), { updates: seen, keepsData: true });
  if (data?.data.length === 0 && seen !== updates) setSeen(updates);
  return { groups: data?.data, error, hasMore: data?.has_more ?? false, newer: updates - seen, showNewer: () => setSeen(updates) };
}

/** The open group if the list lacks it, because newer groups pushed it out or a link opened an older one. */
function usePinned(job: Job, groups: readonly Group[] | undefined, open: string | null): Group | undefined {
  const listed = groups?.find((group) => group.id === open);
  const [last, setLast] = useState(listed);
  if (listed !== undefined && listed !== last) setLast(listed);
  const isMissing = open !== null && groups !== undefined && listed === undefined;
  const isKnown = last?.id === open;
  const { data } = useQuery(`group ${open}`, (signal) =>
    unwrap(api.GET("/v1/jobs/{job_id}/groups", { params: { path: { job_id: job.id }, query: { group_id: open ?? "" } }, signal })), { enabled: isMissing && !isKnown });
  if (!isMissing) return undefined;
  return isKnown ? last : data?.data[0];
}

function NoGroups({ job, isFiltered }: { job: Job; isFiltered: boolean }) {
  if (isFiltered) return <Empty title="No results"><p>Adjust the filters.</p></Empty>;
  const logged = (job.spec["rl"] as { logged_groups_per_step?: number } | undefined)?.logged_groups_per_step;
  return <Empty title="No trajectories yet"><p>Evaluations and reinforcement learning log some of their groups (<code>rl.logged_groups_per_step</code>, here {logged} per step).</p></Empty>;
}

interface RowsProps {
  job: Job;
  group: Group;
  isOpen: boolean;
  onToggle: () => void;
}

function GroupRows({ job, group, isOpen, onToggle }: RowsProps) {
  const rewards = group.rewards.filter((reward) => reward !== null);
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
  const summary = rewards.length === 0 ? "–" : `${number(mean)} (${number(Math.min(...rewards))}–${number(Math.max(...rewards))})`;
  return (
    <tbody>
      <tr className={`link ${isOpen ? "chosen" : ""}`} onClick={onToggle}>
        <td className="num">{number(group.step)}</td>
        <td className="prompt-cell">
          <button type="button" className="row-button clip" aria-expanded={isOpen} title={group.prompt ?? undefined} onClick={(event) => { event.stopPropagation(); onToggle(); }}>
            {group.prompt === null ? group.id : userTurn(group.prompt)}
          </button>
        </td>
        <td><code className="clip">{group.reference_answer}</code></td>
        <td><OutcomeDots outcomes={group.outcomes} /></td>
        <td className="num">{summary}</td>
        <td className="num">{group.staleness ?? "–"}</td>
        <td><Badge plain>{describeDisposition(group.disposition)}</Badge></td>
      </tr>
      {isOpen && (
        <tr className="chosen"><td colSpan={7} className="responses-cell"><Responses job={job} group={group} /></td></tr>
      )}
    </tbody>
  );
}

/** The user turn of a chat prompt on one line. */
export function userTurn(prompt: string): string {
  return prompt.replace(/^\s*(system\n[^]*?\n)?user\n/, "").replace(/\n?assistant\s*$/, "").replaceAll("\n", " ").trim();
}

function Responses({ job, group }: { job: Job; group: Group }) {
  const { data, error } = useQuery(`responses ${group.id}`, (signal) =>
    unwrap(api.GET("/v1/jobs/{job_id}/trajectories", { params: { path: { job_id: job.id }, query: { group_id: group.id, limit: 100 } }, signal })));
  if (error) return <ErrorNote error={error} />;
  return (
    <div className="responses fade-in" style={{ minHeight: 150 }}>
      {data?.data.map((item) => (
        <Link key={item.id} to={`/jobs/${job.id}/trajectories/${item.id}`} className="response card">
          <div className="row apart"><OutcomeBadge outcome={item.outcome} /><span className="num small muted">{item.advantage === null ? "" : formatSigned(item.advantage)}</span></div>
          <pre>{item.text || " "}</pre>
          <div className="small muted num">{number(item.visible_len)} tokens · {number(item.num_steps)} steps · replay</div>
        </Link>
      ))}
    </div>
  );
}

function TrajectoryPage({ job, id }: { job: Job; id: string }) {
  const { data, error } = useQuery(`trajectory ${id}`, (signal) => unwrap(api.GET("/v1/trajectories/{trajectory_id}", { params: { path: { trajectory_id: id } }, signal })));
  const siblings = useQuery(`siblings ${data?.group_id ?? ""}`, (signal) =>
    unwrap(api.GET("/v1/jobs/{job_id}/trajectories", { params: { path: { job_id: job.id }, query: { group_id: data?.group_id ?? "", limit: 100 } }, signal })), { enabled: data !== undefined });
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
      {data.prompt !== null && <p className="question">{userTurn(data.prompt.replace(/<\|[^|>]*\|>/g, ""))}</p>}
      <ReplayView detail={data} onSibling={goBy} />
    </div>
  );
}
