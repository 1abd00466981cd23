/** Events of the job, newest first. */
import { useState } from "react";

import { unwrap, api } from "../../api/client";
import type { Job, JobEvent } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { number } from "../../format";
import { Badge, ErrorNote, Loading, Segments, type Tone, When } from "../../ui/parts";

type Kind = "important" | "all";
const IMPORTANT = ["state", "waiting", "attempt", "retry", "checkpoint", "evaluation", "certificate", "log", "revision", "changed", "rewound"];
const PAGE = 100;
const LEVELS: Record<string, Tone> = { error: "bad", warning: "warn" };

export function EventsTab({ job, updates }: { job: Job; updates: number }) {
  const [kind, setKind] = useState<Kind>("important");
  const [size, setSize] = useState(PAGE);
  const type = kind === "all" ? {} : { type: IMPORTANT };
  const { data, error } = useQuery(`events ${job.id} ${kind} ${size}`, (signal) =>
    unwrap(api.GET("/v1/jobs/{job_id}/events", { params: { path: { job_id: job.id }, query: { order: "desc", limit: size, ...type } }, signal })), { updates, keepsData: true });
  return (
    <div className="stack">
      <Segments label="Filter" value={kind} onChange={setKind} options={[{ value: "important", label: "Important" }, { value: "all", label: "All events" }]} />
      {error && <ErrorNote error={error} />}
      {data === undefined ? !error && <Loading what="events" height={300} /> : (
        <div className="card flush table-scroll" tabIndex={0} role="region" aria-label="Events">
          <table className="events">
            <thead><tr><th scope="col">Time</th><th scope="col">Event</th><th scope="col">Details</th><th scope="col" className="num">Attempt</th></tr></thead>
            <tbody>
              {data.data.map((event) => (
                <tr key={event.id}>
                  <td><When time={event.time} /></td>
                  <td><Badge plain tone={LEVELS[String(event.data["level"])] ?? "neutral"}>{event.type}</Badge></td>
                  <td className="details">{describe(event)}</td>
                  <td className="num">{event.attempt === 0 ? "–" : event.attempt}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {data?.has_more && size < 1000 && <button type="button" className="button" onClick={() => setSize(Math.min(1000, size + PAGE))}>Show older</button>}
    </div>
  );
}

/** One-line summary of an event; types without one show their data as JSON. */
export function describe({ type, data }: JobEvent): string {
  const text = (name: string) => String(data[name]);
  switch (type) {
    case "state": return `${text("from")} → ${text("to")}${failure(data["error"])}`;
    case "waiting": return data["waiting_for"] === null ? "no longer waiting" : `waiting for ${text("waiting_for")}${data["reason"] ? `: ${text("reason")}` : ""}`;
    case "retry": return `next attempt in ${text("after_s")} s${failure(data["error"])}`;
    case "attempt": return `${text("state")} on ${text("trainer")}${failure(data["error"])}`;
    case "phase": return [text("stage"), text("phase"), data["waiting_for"] ? `waiting for ${text("waiting_for")}` : ""].filter((part) => part !== "").join(" · ");
    case "progress": return `${text("stage")} step ${text("stage_step")} of ${text("stage_steps")}`;
    case "metrics": return `${Object.keys(data["values"] as object).length} values of step ${text("step")}`;
    case "checkpoint": return `step ${text("step")}, weights ${text("weight_digest").slice(0, 12)}`;
    case "evaluation": return `${text("dataset")} at step ${text("step")}: ${scoreOf(data["results"])}`;
    case "trajectories": return `${text("purpose")} group ${text("group_id")} of step ${text("step")} (${text("disposition")})`;
    case "log": return text("message");
    case "revision":
    case "changed": return `revision ${text("revision")}: ${JSON.stringify(data["changes"])}`;
    default: return JSON.stringify(data);
  }
}

function failure(error: unknown): string {
  return error !== null && typeof error === "object" && "message" in error ? `: ${String(error.message)}` : "";
}

function scoreOf(results: unknown): string {
  const { reward, accuracy, tokens_per_step: speed } = results as Record<string, number | undefined>;
  const score = accuracy === undefined ? `reward ${number(reward)}` : `${(accuracy * 100).toFixed(1)} % accuracy`;
  return `${score}${speed === undefined ? "" : `, ${number(speed)} tokens per step`}`;
}
