/** Step times, for charts over wall time. */
import { useMemo } from "react";

import { unwrap, api } from "../../api/client";
import type { Job, JobEvent } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { timesOf } from "./phases";

const PAGE = 1000;
const MAX_PAGES = 20;

/** A function from step to seconds since the job started. Fetches nothing unless `wanted`. */
export function useStepTimes(job: Job, wanted: boolean, updates: number): (step: number) => number {
  const { data } = useQuery(`step times ${job.id}`, (signal) => readProgress(job.id, signal), { enabled: wanted, updates: Math.floor(updates / 20) });
  return useMemo(() => timesOf(data ?? [], job.started_at ?? job.created_at), [data, job.started_at, job.created_at]);
}

async function readProgress(jobId: string, signal: AbortSignal): Promise<JobEvent[]> {
  const events: JobEvent[] = [];
  let after: string | null = null;
  for (let page = 0; page < MAX_PAGES; page++) {
    const query: { type: string[]; limit: number; after?: string } = { type: ["progress"], limit: PAGE, ...(after === null ? {} : { after }) };
    const read: { data: JobEvent[]; last_id: string | null; has_more: boolean } = await unwrap(api.GET("/v1/jobs/{job_id}/events", { params: { path: { job_id: jobId }, query }, signal }));
    events.push(...read.data);
    after = read.last_id;
    if (!read.has_more) break;
  }
  return events;
}
