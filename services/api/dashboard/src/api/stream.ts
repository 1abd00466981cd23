/** A job's events as they come: server-sent events read with fetch, so that they can carry the API key. */
import { authorization, refusal } from "./client";
import type { JobEvent } from "./types";

const RETRY_MS = [500, 1000, 2000, 5000];

export interface EventStream {
  jobId: string;
  /** Id of the last event that is known already; null for all. */
  after: string | null;
  /** Events in the order they came, several at a time. */
  onEvents: (events: JobEvent[]) => void;
  /** Whether the connection stands; called on each change. */
  onConnected?: (connected: boolean) => void;
}

/** Follow a job until it is over or the signal is aborted; reconnects where it stopped. Throws what the API refuses. */
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
  if (response.status >= 502) throw new TypeError(`the server answered ${response.status}`);
  if (!response.ok || response.body === null) throw refusal(await response.json().catch(() => undefined), response);
  return response.body;
}

/** Read frames to the end; whether the server said that nothing follows. */
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
    const facts = events.filter((event) => event !== "done");
    if (facts.length > 0) onEvents(facts);
    if (over) return true;
  }
}

/** One frame; null for a comment. */
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
