/** When each step was made, for charts over wall time. */
import { useMemo } from "react";

import { answer, api } from "../../api/client";
import type { Job, JobEvent } from "../../api/types";
import { useQuery } from "../../api/use-query";

const PAGE = 1000;
const MOST_PAGES = 20;

/** Seconds from the job's start to a step's end; between known steps on a straight line. Reads only when asked. */
export function useStepTimes(job: Job, wanted: boolean, news: number): (step: number) => number {
  const every = Math.floor(news / 20);
  const { data } = useQuery(`step times ${job.id} ${every}`, (signal) => readProgress(job.id, signal), { enabled: wanted });
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

/** Interpolation over the last time that each step was reached. */
export function timesOf(events: readonly JobEvent[], start: number): (step: number) => number {
  const known = new Map<number, number>();
  for (const event of events) known.set(event.data["step"] as number, event.time - start);
  const steps = [...known.keys()].sort((a, b) => a - b);
  return (step) => {
    let low = 0;
    let high = steps.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((steps[middle] ?? 0) <= step) low = middle;
      else high = middle - 1;
    }
    const [left = 0, right = left] = [steps[low], steps[low + 1]];
    const [from = 0, to = from] = [known.get(left), known.get(right)];
    return right > left ? from + ((to - from) * (step - left)) / (right - left) : from;
  };
}
