// @vitest-environment jsdom
import { cleanup, fireEvent, render, screen, within } from "@testing-library/react";
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

test("cancelling asks for confirmation", async () => {
  HTMLDialogElement.prototype.showModal = function showModal() { this.open = true; };
  await show("running", ALL);
  fireEvent.click(screen.getByRole("button", { name: "Cancel" }));
  const dialog = screen.getByRole("dialog", { name: "Cancel this job?" });
  expect(dialog.textContent).toContain("The last checkpoint is kept.");
  expect(within(dialog).getAllByRole("button").map((button) => button.textContent)).toEqual(["Cancel job", "Keep running"]);
});

test("a paused job can be resumed", async () => {
  expect(await show("paused", ALL)).toEqual(["Resume", "Cancel", "Use as template"]);
});

test("an action that the installation does not offer has no button", async () => {
  expect(await show("running", { "/v1/jobs/{job_id}/cancel": { post: {} } })).toEqual(["Cancel", "Use as template"]);
});
