// @vitest-environment jsdom
import { cleanup, render, screen } from "@testing-library/react";
import { afterEach, expect, test, vi } from "vitest";

import { CapabilitiesProvider } from "../../api/capabilities";
import type { Job } from "../../api/types";
import { JobActions } from "./job-actions";

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

async function show(state: Job["state"], paths: Record<string, object>) {
  vi.stubGlobal("fetch", () => Promise.resolve(new Response(JSON.stringify({ info: {}, paths, components: { schemas: {} } }))));
  render(<CapabilitiesProvider><JobActions job={{ id: "job_1", state } as Job} onDone={vi.fn()} /></CapabilitiesProvider>);
  await screen.findByRole("button", { name: "Cancel" });
  return screen.getAllByRole("button").map((button) => button.textContent);
}

const ALL = Object.fromEntries(["pause", "resume", "cancel", "rerun"].map((name) => [`/v1/jobs/{job_id}/${name}`, { post: {} }]));

test("a running job can be paused and cancelled", async () => {
  expect(await show("running", ALL)).toEqual(["Pause", "Cancel", "Use as template"]);
});

test("a paused job can be resumed", async () => {
  expect(await show("paused", ALL)).toEqual(["Resume", "Cancel", "Use as template"]);
});

test("what the installation does not offer has no button", async () => {
  expect(await show("running", { "/v1/jobs/{job_id}/cancel": { post: {} } })).toEqual(["Cancel", "Use as template"]);
});
