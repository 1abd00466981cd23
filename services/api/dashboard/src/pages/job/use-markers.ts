/** Where checkpoints were written, evaluations made, attempts begun and stages changed. */
import { useMemo } from "react";

import { answer, api } from "../../api/client";
import type { Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import type { Marker } from "../../charts/uplot-chart";

const NONE: readonly Marker[] = [];

/** Markers by step; read again when the job has news of that kind. */
export function useMarkers(job: Job, news: Readonly<Record<string, number>>): readonly Marker[] {
  const path = { path: { job_id: job.id } };
  const count = (news["checkpoint"] ?? 0) + (news["evaluation"] ?? 0) + (news["attempt"] ?? 0) + (news["certificate"] ?? 0) + (news["revision"] ?? 0);
  const { data } = useQuery(`markers ${job.id}`, async (signal) => {
    const [checkpoints, evaluations, attempts, revisions] = await Promise.all([
      answer(api.GET("/v1/jobs/{job_id}/checkpoints", { params: { ...path, query: { deleted: true } }, signal })),
      answer(api.GET("/v1/jobs/{job_id}/evals", { params: path, signal })),
      answer(api.GET("/v1/jobs/{job_id}/attempts", { params: path, signal })),
      answer(api.GET("/v1/jobs/{job_id}/events", { params: { ...path, query: { type: ["revision"] } }, signal })),
    ]);
    const stages = checkpoints.data.filter((item, place) => place > 0 && item.stage !== checkpoints.data[place - 1]?.stage);
    return [
      ...checkpoints.data.map((item): Marker => ({ x: item.step, kind: "checkpoint", label: `checkpoint at ${item.step}` })),
      ...evaluations.data.map((item): Marker => ({ x: item.step, kind: "evaluation", label: `evaluation at ${item.step}` })),
      ...attempts.data.filter((item) => item.number > 1 && item.resumed_from !== null).map((item): Marker => ({ x: item.resumed_from ?? 0, kind: "attempt", label: `attempt ${item.number}` })),
      ...revisions.data.map((item): Marker => ({ x: Number(item.data["step"]), kind: "revision", label: `revision ${String(item.data["revision"])}` })),
      ...stages.map((item): Marker => ({ x: lastOf(checkpoints.data, item.stage), kind: "stage", label: item.stage })),
    ];
  }, { news: count });
  return useMemo(() => data ?? NONE, [data]);
}

/** The last step of the stage before this one: every stage ends with a checkpoint. */
function lastOf(checkpoints: readonly { step: number; stage: string }[], stage: string): number {
  const first = checkpoints.findIndex((item) => item.stage === stage);
  return checkpoints[first - 1]?.step ?? 0;
}
