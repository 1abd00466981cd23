/** Server-sent events of a job. Read with fetch, because EventSource cannot send the API key. */
import { authorization, toApiError } from "./client";
import type { JobEvent } from "./types";

const RETRY_MS = [500, 1000, 2000, 5000];

export interface EventStream {
  jobId: string;
  /** Id of the last known event; null to start from the first. */
  after: string | null;
  /** Called with batches of events in order. */
  onEvents: (events: JobEvent[]) => void;
  /** Called when the connection is opened or lost. */
  onConnected?: (connected: boolean) => void;
}

/** Follow a job until it finishes or the signal is aborted; reconnects after the last event. Throws error responses. */
export async function followEvents(stream: EventStream, signal: AbortSignal): Promise<void> {
  let after = stream.after;
  let failures = 0;
  while (!signal.aborted) {
    try {
      const body = await open(stream.jobId, after, signal);
      failures = 0;
      stream.onConnected?.(true);
      const over = await readAll(body, (events) => {
        after = events.at(-1)?.id ?? after;
        stream.onEvents(events);
      });
      if (over) return;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof TypeError)) throw error;
    }
    stream.onConnected?.(false);
    await sleep(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)] ?? 5000, signal);
  }
}

async function open(jobId: string, after: string | null, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
  const query = after === null ? "" : `?after=${encodeURIComponent(after)}`;
  const headers = { Accept: "text/event-stream", ...authorization() };
  const response = await fetch(`/v1/jobs/${jobId}/events${query}`, { headers, signal });
  if (response.status >= 502) throw new TypeError(`the server responded with ${response.status}`);
  if (!response.ok || response.body === null) throw toApiError(await response.json().catch(() => undefined), response);
  return response.body;
}

/** Read all frames; returns whether the server ended the stream with "done". */
async function readAll(body: ReadableStream<Uint8Array>, onEvents: (events: JobEvent[]) => void): Promise<boolean> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return false;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop() ?? "";
    const events = frames.map(parseFrame).filter((event) => event !== null);
    const over = events.includes("done");
    const jobEvents = events.filter((event) => event !== "done");
    if (jobEvents.length > 0) onEvents(jobEvents);
    if (over) return true;
  }
}

/** Parse one frame; null for a comment. */
export function parseFrame(frame: string): JobEvent | "done" | null {
  const fields = new Map(frame.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
  if (fields.get("event") === "done") return "done";
  const data = fields.get("data");
  return data === undefined ? null : (JSON.parse(data) as JobEvent);
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
