/** Page of one job: state, actions, and a tab per kind of record. */
import type { ReactNode } from "react";

import { useCapabilities } from "../../api/capabilities";
import { Link } from "../../router";
import { Empty, ErrorNote, Loading, Tabs } from "../../ui/parts";
import { TrajectoriesTab } from "../trajectories/trajectories-tab";
import { AttemptsTab } from "./attempts-tab";
import { ChartsTab } from "./charts-tab";
import { CheckpointsTab } from "./checkpoints-tab";
import { EvaluationsTab } from "./evaluations-tab";
import { EventsTab } from "./events-tab";
import { JobHeader } from "./job-header";
import { LogsTab } from "./logs-tab";
import { PromptsTab } from "./prompts-tab";
import { SpecTab } from "./spec-tab";
import { TimelineTab } from "./timeline-tab";
import { type LiveJob, useLiveJob } from "./use-live-job";

interface Props {
  jobId: string;
  tab: string;
  trajectoryId?: string | null;
}

const NOT_FOUND = 404;
const LOGS = "/v1/jobs/{job_id}/logs";

export function JobPage({ jobId, tab, trajectoryId = null }: Props) {
  const live = useLiveJob(jobId);
  const { offers } = useCapabilities();
  const tabs = [
    ["charts", "Charts"],
    ["timeline", "Timeline"],
    ["trajectories", "Trajectories"],
    ["prompts", "Prompts"],
    ["evaluations", "Evaluations"],
    ["checkpoints", "Checkpoints"],
    ["attempts", "Attempts"],
    ["events", "Events"],
    ...(offers("get", LOGS) ? [["logs", "Logs"]] : []),
    ["spec", "Spec"],
  ].map(([key = "", label = ""]) => ({ key, label, to: key === "charts" ? `/jobs/${jobId}` : `/jobs/${jobId}/${key}` }));
  if (live.error?.status === NOT_FOUND) return <Empty title="Job not found"><p>No job with id <code>{jobId}</code>. <Link to="/">Go to Jobs</Link></p></Empty>;
  if (live.job === undefined) return live.error ? <ErrorNote error={live.error} /> : <Loading what="job" height={400} />;
  return (
    <div className="stack">
      <JobHeader live={live} job={live.job} isBrief={tab !== "charts"} />
      <Tabs label="Job" tabs={tabs} current={tab} />
      {tabContent(tab, live, trajectoryId) ?? <Empty title="Page not found"><p>A job has no tab <code>{tab}</code>. Select one above.</p></Empty>}
    </div>
  );
}

function tabContent(tab: string, live: LiveJob, trajectoryId: string | null): ReactNode {
  const job = live.job;
  if (job === undefined) return null;
  switch (tab) {
    case "charts": return <ChartsTab live={live} job={job} />;
    case "timeline": return <TimelineTab job={job} updates={live.updates["phase"] ?? 0} />;
    case "trajectories": return <TrajectoriesTab job={job} trajectoryId={trajectoryId} updates={live.updates["trajectories"] ?? 0} />;
    case "prompts": return <PromptsTab job={job} updates={live.updates["prompt_results"] ?? 0} />;
    case "evaluations": return <EvaluationsTab job={job} updates={live.updates["evaluation"] ?? 0} />;
    case "checkpoints": return <CheckpointsTab job={job} updates={live.updates["checkpoint"] ?? 0} />;
    case "attempts": return <AttemptsTab job={job} updates={(live.updates["attempt"] ?? 0) + (live.updates["certificate"] ?? 0)} />;
    case "events": return <EventsTab job={job} updates={Object.values(live.updates).reduce((sum, count) => sum + count, 0)} />;
    case "logs": return <LogsTab job={job} />;
    case "spec": return <SpecTab job={job} />;
    default: return null;
  }
}
