/** When each step was made, for charts over wall time. */
import { useMemo } from "react";

import { answer, api } from "../../api/client";
import type { Job, JobEvent } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { timesOf } from "./phases";

const PAGE = 1000;
const MOST_PAGES = 20;

/** Seconds from the job's start to a step's end; between known steps on a straight line. Reads only when asked. */
export function useStepTimes(job: Job, wanted: boolean, news: number): (step: number) => number {
  const { data } = useQuery(`step times ${job.id}`, (signal) => readProgress(job.id, signal), { enabled: wanted, news: Math.floor(news / 20) });
  return useMemo(() => timesOf(data ?? [], job.started_at ?? job.created_at), [data, job.started_at, job.created_at]);
}

async function readProgress(jobId: string, signal: AbortSignal): Promise<JobEvent[]> {
  const events: JobEvent[] = [];
  let after: string | null = null;
  for (let page = 0; page < MOST_PAGES; page++) {
    const query: { type: string[]; limit: number; after?: string } = { type: ["progress"], limit: PAGE, ...(after === null ? {} : { after }) };
    const read: { data: JobEvent[]; last_id: string | null; has_more: boolean } = await answer(api.GET("/v1/jobs/{job_id}/events", { params: { path: { job_id: jobId }, query }, signal }));
    events.push(...read.data);
    after = read.last_id;
    if (!read.has_more) break;
  }
  return events;
}
