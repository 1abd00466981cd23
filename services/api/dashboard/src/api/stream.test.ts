// @vitest-environment jsdom
import { afterEach, expect, test, vi } from "vitest";

import { followEvents, parseFrame } from "./stream";
import type { JobEvent } from "./types";

afterEach(() => vi.unstubAllGlobals());

const frame = (id: string) => `id: ${id}\nevent: log\ndata: {"id": "${id}", "type": "log"}\n\n`;

function body(...chunks: string[]): Response {
  const encoder = new TextEncoder();
  const stream = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(encoder.encode(chunk));
      controller.close();
    },
  });
  return new Response(stream, { status: 200 });
}

test("comments are not events", () => {
  expect(parseFrame(": keepalive")).toBeNull();
  expect(parseFrame("event: done\ndata: [DONE]")).toBe("done");
});

test("a broken stream is resumed after its last complete event", async () => {
  const asked: string[] = [];
  const answers = [body(frame("evt_1") + frame("evt_2").slice(0, 9)), body(frame("evt_2"), "event: done\ndata: [DONE]\n\n")];
  vi.stubGlobal("fetch", (url: string) => {
    asked.push(url);
    return Promise.resolve(answers.shift());
  });
  const seen: JobEvent[] = [];

  await followEvents({ jobId: "job_1", after: null, onEvents: (events) => seen.push(...events) }, new AbortController().signal);

  expect(asked).toEqual(["/v1/jobs/job_1/events", "/v1/jobs/job_1/events?after=evt_1"]);
  expect(seen.map((event) => event.id)).toEqual(["evt_1", "evt_2"]);
});

test("an error response ends it with the message of the server", async () => {
  const envelope = { error: { message: "No job with id job_9.", code: "not_found", request_id: "req_1" } };
  vi.stubGlobal("fetch", () => Promise.resolve(new Response(JSON.stringify(envelope), { status: 404 })));

  const following = followEvents({ jobId: "job_9", after: null, onEvents: vi.fn() }, new AbortController().signal);

  await expect(following).rejects.toMatchObject({ status: 404, code: "not_found", message: "No job with id job_9." });
});
