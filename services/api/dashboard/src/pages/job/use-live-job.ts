/** Live state of one job, its metrics and event counts, updated by the event stream. */
import { useEffect, useRef, useState } from "react";

import { unwrap, api, ApiError } from "../../api/client";
import { followEvents } from "../../api/stream";
import type { Job, JobEvent } from "../../api/types";
import { asError } from "../../api/use-query";
import { DEFAULT_METRICS } from "../../charts/metric-chart";
import { POINTS, SeriesStore } from "../../charts/series";

const REFRESH_MS = 1000;

export interface LiveJob {
  job: Job | undefined;
  error: ApiError | undefined;
  series: SeriesStore;
  /** Incremented with every change of the series. */
  version: number;
  /** Number of events per type since the page was opened; components refetch their records when it changes. */
  updates: Readonly<Record<string, number>>;
  connected: boolean;
  refresh: () => void;
}

/** Fetch the job and its default metrics once, then follow its events. */
export function useLiveJob(jobId: string): LiveJob {
  const [job, setJob] = useState<Job>();
  const [error, setError] = useState<ApiError>();
  const [connected, setConnected] = useState(true);
  const [updates, setNews] = useState<Record<string, number>>({});
  const [version, setVersion] = useState(0);
  const [series] = useState(() => new SeriesStore());
  const refresh = useRef<() => void>(() => undefined);

  useEffect(() => {
    const abort = new AbortController();
    const { signal } = abort;
    const read = () => unwrap(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: jobId } }, signal }));
    const later = throttle(() => void read().then(setJob, ignoreAbort(setError)), REFRESH_MS);
    refresh.current = later;
    const apply = (events: JobEvent[]) => {
      for (const event of events) applyMetrics(series, event);
      setVersion(series.version);
      setNews((old) => countEvents(old, events));
      if (events.some((event) => event.type !== "trajectories")) later();
    };
    const begin = async () => {
      const first = await read();
      setJob(first);
      const names = [...DEFAULT_METRICS];
      const known = await unwrap(api.GET("/v1/jobs/{job_id}/metrics", { params: { path: { job_id: jobId }, query: { names, downsample: POINTS } }, signal }));
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

  return { job, error, series, version, updates, connected, refresh: () => refresh.current() };
}

function applyMetrics(series: SeriesStore, event: JobEvent): void {
  if (event.type !== "metrics") return;
  const { step, values } = event.data as { step: number; values: Record<string, number | null> };
  series.append(step, values);
}

function countEvents(old: Record<string, number>, events: readonly JobEvent[]): Record<string, number> {
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

/** Run at most once per `ms`, and always after the last call. */
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
