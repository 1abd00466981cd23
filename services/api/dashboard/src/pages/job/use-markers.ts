/** Chart markers: checkpoints, evaluations, restarts, changed settings and stages. */
import { useMemo } from "react";

import { unwrap, api } from "../../api/client";
import type { Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import type { Marker } from "../../charts/uplot-chart";

const NONE: readonly Marker[] = [];

/** Markers by step, refetched when the job reports an event of one of these types. */
export function useMarkers(job: Job, updates: Readonly<Record<string, number>>): readonly Marker[] {
  const path = { path: { job_id: job.id } };
  const count = (updates["checkpoint"] ?? 0) + (updates["evaluation"] ?? 0) + (updates["attempt"] ?? 0) + (updates["certificate"] ?? 0) + (updates["revision"] ?? 0);
  const { data } = useQuery(`markers ${job.id}`, async (signal) => {
    const [checkpoints, evaluations, attempts, revisions] = await Promise.all([
      unwrap(api.GET("/v1/jobs/{job_id}/checkpoints", { params: { ...path, query: { deleted: true } }, signal })),
      unwrap(api.GET("/v1/jobs/{job_id}/evals", { params: path, signal })),
      unwrap(api.GET("/v1/jobs/{job_id}/attempts", { params: path, signal })),
      unwrap(api.GET("/v1/jobs/{job_id}/events", { params: { ...path, query: { type: ["revision"] } }, signal })),
    ]);
    const stages = checkpoints.data.filter((item, place) => place > 0 && item.stage !== checkpoints.data[place - 1]?.stage);
    return [
      ...checkpoints.data.map((item): Marker => ({ x: item.step, kind: "checkpoint", label: `checkpoint at ${item.step}` })),
      ...evaluations.data.map((item): Marker => ({ x: item.step, kind: "evaluation", label: `evaluation at ${item.step}` })),
      ...attempts.data.filter((item) => item.number > 1 && item.resumed_from !== null).map((item): Marker => ({ x: item.resumed_from ?? 0, kind: "attempt", label: `restart (attempt ${item.number})` })),
      ...revisions.data.map((item): Marker => ({ x: Number(item.data["step"]), kind: "revision", label: `settings changed (revision ${String(item.data["revision"])})` })),
      ...stages.map((item): Marker => ({ x: lastOf(checkpoints.data, item.stage), kind: "stage", label: item.stage })),
    ];
  }, { updates: count });
  return useMemo(() => data ?? NONE, [data]);
}

/** Last step of the stage before this one; every stage ends with a checkpoint. */
function lastOf(checkpoints: readonly { step: number; stage: string }[], stage: string): number {
  const first = checkpoints.findIndex((item) => item.stage === stage);
  return checkpoints[first - 1]?.step ?? 0;
}
