/** A job that is watched: its row, its metrics and its records, kept current by the event stream. */
import { useEffect, useRef, useState } from "react";

import { answer, api, ApiError } from "../../api/client";
import { followEvents } from "../../api/stream";
import type { Job, JobEvent } from "../../api/types";
import { asError } from "../../api/use-query";
import { DEFAULT_METRICS } from "../../charts/catalogue";
import { POINTS, SeriesStore } from "../../charts/series";

const REFRESH_MS = 1000;

export interface LiveJob {
  job: Job | undefined;
  error: ApiError | undefined;
  series: SeriesStore;
  /** Grows with every change of the series. */
  version: number;
  /** Counts events per type: whoever shows such records reads them again when theirs grows. */
  news: Readonly<Record<string, number>>;
  connected: boolean;
  refresh: () => void;
}

/** Read the job once, its default metrics once, and then only what is new. */
export function useLiveJob(jobId: string): LiveJob {
  const [job, setJob] = useState<Job>();
  const [error, setError] = useState<ApiError>();
  const [connected, setConnected] = useState(true);
  const [news, setNews] = useState<Record<string, number>>({});
  const [version, setVersion] = useState(0);
  const [series] = useState(() => new SeriesStore());
  const refresh = useRef<() => void>(() => undefined);

  useEffect(() => {
    const abort = new AbortController();
    const { signal } = abort;
    const read = () => answer(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: jobId } }, signal }));
    const later = throttle(() => void read().then(setJob, ignoreAbort(setError)), REFRESH_MS);
    refresh.current = later;
    const apply = (events: JobEvent[]) => {
      for (const event of events) applyMetrics(series, event);
      setVersion(series.version);
      setNews((old) => counted(old, events));
      if (events.some((event) => event.type !== "trajectories")) later();
    };
    const begin = async () => {
      const first = await read();
      setJob(first);
      const names = [...DEFAULT_METRICS];
      const known = await answer(api.GET("/v1/jobs/{job_id}/metrics", { params: { path: { job_id: jobId }, query: { names, downsample: POINTS } }, signal }));
      for (const item of known.data) series.set(item.name, { steps: item.steps, values: item.values });
      setVersion(series.version);
      await followEvents({ jobId, after: first.last_event_id, onEvents: apply, onConnected: setConnected }, signal);
      later();
    };
    begin().catch(ignoreAbort(setError));
    return () => {
      abort.abort();
      later.cancel();
    };
  }, [jobId, series]);

  return { job, error, series, version, news, connected, refresh: () => refresh.current() };
}

function applyMetrics(series: SeriesStore, event: JobEvent): void {
  if (event.type !== "metrics") return;
  const { step, values } = event.data as { step: number; values: Record<string, number | null> };
  series.append(step, values);
}

function counted(old: Record<string, number>, events: readonly JobEvent[]): Record<string, number> {
  const next = { ...old };
  for (const event of events) next[event.type] = (next[event.type] ?? 0) + 1;
  return next;
}

function ignoreAbort(report: (error: ApiError) => void): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof DOMException && error.name === "AbortError")) report(asError(error));
  };
}

type Throttled = (() => void) & { cancel: () => void };

/** At most once per `ms`, and always after the last call. */
function throttle(action: () => void, ms: number): Throttled {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const call = () => {
    timer ??= setTimeout(() => {
      timer = undefined;
      action();
    }, ms);
  };
  return Object.assign(call, { cancel: () => clearTimeout(timer) });
}
