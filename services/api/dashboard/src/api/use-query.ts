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
}

interface Held<T> {
  key: string;
  data: T | undefined;
  error: ApiError | undefined;
}

/** What `load` gives for `key`; a new key starts anew. Pauses while the page is hidden. */
export function useQuery<T>(
  key: string,
  load: (signal: AbortSignal) => Promise<T>,
  { every, enabled = true }: Options = {},
): Query<T> {
  const [held, setHeld] = useState<Held<T>>({ key, data: undefined, error: undefined });
  const [round, setRound] = useState(0);
  const latest = useRef(load);
  useEffect(() => {
    latest.current = load;
  });
  useEffect(() => {
    if (!enabled) return;
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async () => {
      if (!document.hidden) {
        try {
          const data = await latest.current(abort.signal);
          if (!abort.signal.aborted) setHeld({ key, data, error: undefined });
        } catch (error) {
          if (!abort.signal.aborted) setHeld((old) => ({ key, data: old.key === key ? old.data : undefined, error: asError(error) }));
        }
      }
      if (every !== undefined && !abort.signal.aborted) timer = setTimeout(() => void ask(), every);
    };
    void ask();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [key, every, enabled, round]);
  const reload = useCallback(() => setRound((count) => count + 1), []);
  const current = held.key === key;
  return { data: current ? held.data : undefined, error: current ? held.error : undefined, reload };
}

/** Whatever was thrown, as an error that can be shown. */
export function asError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  return new ApiError(error instanceof Error ? error.message : String(error), 0, "unexpected");
}
