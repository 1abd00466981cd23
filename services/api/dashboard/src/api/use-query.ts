/** Reading from the API in a component: one request at a time, repeated while somebody looks. */
import { useCallback, useEffect, useRef, useState } from "react";

import { ApiError } from "./client";

export interface Query<T> {
  data: T | undefined;
  /** Of the last request; data of an earlier one stays. */
  error: ApiError | undefined;
  reload: () => void;
}

interface Options {
  /** Milliseconds between the end of a request and the next one; never again when left out. */
  every?: number | undefined;
  /** False asks nothing. */
  enabled?: boolean;
  /** Asks the same again, soon, when it changes; what is there stays until then. */
  news?: number | string;
  /** Whether the answer to another key stays until there is one to this. */
  keeps?: boolean;
}

interface Held<T> {
  key: string;
  data: T | undefined;
  error: ApiError | undefined;
}

/** What `load` gives for `key`; a new key starts anew. */
export function useQuery<T>(
  key: string,
  load: (signal: AbortSignal) => Promise<T>,
  { every, enabled = true, news = 0, keeps = false }: Options = {},
): Query<T> {
  const [held, setHeld] = useState<Held<T>>({ key, data: undefined, error: undefined });
  const [round, setRound] = useState(0);
  const latest = useRef({ load, keeps });
  const wake = useRef(() => {});
  useEffect(() => {
    latest.current = { load, keeps };
  });
  // Stands before the effect that asks: the first reading is no news.
  useEffect(() => wake.current(), [news]);
  useEffect(() => {
    if (!enabled) return;
    const ask = async (signal: AbortSignal) => {
      try {
        const data = await latest.current.load(signal);
        if (!signal.aborted) setHeld({ key, data, error: undefined });
      } catch (error) {
        if (!signal.aborted) setHeld((old) => ({ key, data: old.key === key || latest.current.keeps ? old.data : undefined, error: asError(error) }));
      }
    };
    const repeated = repeat(ask, every);
    wake.current = repeated.wake;
    return repeated.stop;
  }, [key, every, enabled, round]);
  const reload = useCallback(() => setRound((count) => count + 1), []);
  const isCurrent = held.key === key;
  return { data: isCurrent || keeps ? held.data : undefined, error: isCurrent ? held.error : undefined, reload };
}

const SOON_MS = 300;

interface Repeated {
  /** Ask once more, soon; however often it is called, requests follow each other. */
  wake: () => void;
  stop: () => void;
}

/** Asks now, `every` milliseconds after each end, and after a wake; while the page is hidden only the first time. */
function repeat(ask: (signal: AbortSignal) => Promise<void>, every: number | undefined): Repeated {
  const abort = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isAsking = false;
  let isWanted = false;
  const run = async () => {
    if (isAsking) return;
    [isAsking, isWanted] = [true, false];
    await ask(abort.signal);
    isAsking = false;
    schedule();
  };
  const schedule = () => {
    const pause = isWanted ? SOON_MS : every;
    if (abort.signal.aborted || isAsking || pause === undefined) return;
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

/** Waits until somebody can see the page. */
function visible(signal: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", () => resolve(), { once: true, signal }));
}

/** Whatever was thrown, as an error that can be shown. */
export function asError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  return new ApiError(error instanceof Error ? error.message : String(error), 0, "unexpected");
}
