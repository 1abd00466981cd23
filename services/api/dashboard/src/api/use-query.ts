/** Fetch data in a component: one request at a time, repeated while the page is visible. */
import { useCallback, useEffect, useRef, useState } from "react";

import { ApiError, UNREACHABLE } from "./client";

export interface Query<T> {
  data: T | undefined;
  /** Error of the last request; `data` keepsData the last successful result. */
  error: ApiError | undefined;
  reload: () => void;
}

interface Options {
  /** Polling interval in milliseconds, from the end of a request; no polling if omitted. */
  every?: number | undefined;
  /** False disables the query. */
  enabled?: boolean;
  /** A change refetches soon and keepsData the data until then. */
  updates?: number | string;
  /** Whether to keep the data of the previous key until the new key has loaded. */
  keepsData?: boolean;
}

interface Held<T> {
  key: string;
  data: T | undefined;
  error: ApiError | undefined;
}

/** Result of `load` for `key`; a new key resets the query. */
export function useQuery<T>(
  key: string,
  load: (signal: AbortSignal) => Promise<T>,
  { every, enabled = true, updates = 0, keepsData = false }: Options = {},
): Query<T> {
  const [held, setHeld] = useState<Held<T>>({ key, data: undefined, error: undefined });
  const [round, setRound] = useState(0);
  const latest = useRef({ load, keepsData });
  const wake = useRef(() => {});
  useEffect(() => {
    latest.current = { load, keepsData };
  });
  // Declared before the effect that fetches, so that the first render does not fetch twice.
  useEffect(() => wake.current(), [updates]);
  useEffect(() => {
    if (!enabled) return;
    const fetchOnce = async (signal: AbortSignal) => {
      try {
        const data = await latest.current.load(signal);
        if (!signal.aborted) setHeld({ key, data, error: undefined });
        return false;
      } catch (caught) {
        const isUnreachable = asError(caught).code === UNREACHABLE;
        const error = isUnreachable ? new ApiError("Cannot reach the API. Retrying …", 0, UNREACHABLE) : asError(caught);
        if (!signal.aborted) setHeld((old) => ({ key, data: old.key === key || latest.current.keepsData ? old.data : undefined, error }));
        return isUnreachable;
      }
    };
    const repeated = repeat(fetchOnce, every);
    wake.current = repeated.wake;
    return repeated.stop;
  }, [key, every, enabled, round]);
  const reload = useCallback(() => setRound((count) => count + 1), []);
  const isCurrent = held.key === key;
  return { data: isCurrent || keepsData ? held.data : undefined, error: isCurrent ? held.error : undefined, reload };
}

const SOON_MS = 300;
const RETRY_MS = 3000;

interface Repeated {
  /** Request a refetch; several calls are merged, and requests never overlap. */
  wake: () => void;
  stop: () => void;
}

/** Load now, `every` milliseconds after each request, and after a wake; a hidden page loads only once. */
function repeat(fetchOnce: (signal: AbortSignal) => Promise<boolean>, every: number | undefined): Repeated {
  const abort = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isFetching = false;
  let isWanted = false;
  let shouldRetry = false;
  const run = async () => {
    if (isFetching) return;
    isFetching = true;
    isWanted = false;
    shouldRetry = await fetchOnce(abort.signal);
    isFetching = false;
    schedule();
  };
  const schedule = () => {
    const pause = isWanted ? SOON_MS : shouldRetry ? RETRY_MS : every;
    if (abort.signal.aborted || isFetching || pause === undefined) return;
    clearTimeout(timer);
    timer = setTimeout(() => void visible(abort.signal).then(run), pause);
  };
  const wake = () => {
    if (isWanted) return;
    isWanted = true;
    schedule();
  };
  void run();
  return { wake, stop: () => { abort.abort(); clearTimeout(timer); } };
}

/** Resolves when the page is visible. */
function visible(signal: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", () => resolve(), { once: true, signal }));
}

/** Convert anything thrown to an ApiError. */
export function asError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  return new ApiError(error instanceof Error ? error.message : String(error), 0, "unexpected");
}
