// @vitest-environment jsdom
import { cleanup, fireEvent, render, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import type { Group, Job } from "../../api/types";
import { TrajectoriesTab } from "./trajectories-tab";

const JOB = { id: "job_1", spec: {} } as Job;

const group = (step: number) => ({
  id: `grp_${step}`, step, prompt: `question ${step}`, reference_answer: "1", outcomes: ["correct"], rewards: [1], staleness: 0, disposition: "trained", trajectory_ids: [`traj_${step}`],
}) as Group;

/** Groups that the server has; a page holds two. */
let kept: Group[];

beforeEach(() => {
  window.history.replaceState(null, "", "/");
  vi.stubGlobal("scrollTo", vi.fn());
  vi.stubGlobal("fetch", (request: Request) => {
    const { pathname, searchParams } = new URL(request.url);
    const wanted = searchParams.get("group_id");
    const data = pathname.endsWith("/groups") ? (wanted ? kept.filter((item) => item.id === wanted) : kept.slice(0, 2)) : [{ id: `traj_of_${wanted}`, text: `answer in ${wanted}`, outcome: "correct", advantage: 0.5 }];
    return Promise.resolve(new Response(JSON.stringify({ data, has_more: false })));
  });
});
afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

const questions = () => [...document.querySelectorAll(".row-button")].map((button) => button.textContent);
const tab = (updates: number) => <TrajectoriesTab job={JOB} trajectoryId={null} updates={updates} />;

test("an open group stays open and in place while newer groups arrive", async () => {
  kept = [group(2), group(1)];
  const { rerender } = render(tab(0));
  fireEvent.click(await screen.findByRole("button", { name: "question 1" }));
  await screen.findByText("answer in grp_1");

  kept = [group(4), group(3), ...kept];
  rerender(tab(2));
  await screen.findByRole("button", { name: "Show newer (2)" });
  expect(questions()).toEqual(["question 2", "question 1"]);
  expect(screen.getByText("answer in grp_1")).toBeTruthy();
});

test("an open group that newer groups push out of the list is pinned above them", async () => {
  kept = [group(2), group(1)];
  const { rerender } = render(tab(0));
  fireEvent.click(await screen.findByRole("button", { name: "question 1" }));
  await screen.findByText("answer in grp_1");
  kept = [group(4), group(3), ...kept];
  rerender(tab(2));
  fireEvent.click(await screen.findByRole("button", { name: "Show newer (2)" }));

  await waitFor(() => expect(questions()).toEqual(["question 1", "question 4", "question 3"]));
  expect(await screen.findByText("answer in grp_1")).toBeTruthy();
  expect(screen.queryByRole("button", { name: /Show newer/ })).toBeNull();
});

test("a link to a group that is not among the newest pins it above them", async () => {
  kept = [group(4), group(3), group(2), group(1)];
  window.history.replaceState(null, "", "/?group=grp_1");
  render(tab(0));
  await screen.findByText("answer in grp_1");
  expect(questions()).toEqual(["question 1", "question 4", "question 3"]);
});

test("an ungraded response has no reward and does not change the reward of the others", async () => {
  const outcomes = ["unverifiable", "unverifiable"];
  kept = [
    { ...group(2), outcomes, rewards: [null, null], disposition: "dropped_error" },
    { ...group(1), outcomes: ["unverifiable", "correct"], rewards: [null, 0.5] },
  ];
  render(tab(0));
  await screen.findByRole("button", { name: "question 1" });

  const rewards = [...document.querySelectorAll("tbody tr")].map((row) => row.children[4]?.textContent);
  expect(rewards).toEqual(["–", "0.5 (0.5–0.5)"]);
  const uses = [...document.querySelectorAll("tbody tr")].map((row) => row.children[6]?.textContent);
  expect(uses).toEqual(["dropped (error)", "training"]);
});

test("an empty list loads new groups automatically", async () => {
  kept = [];
  const { rerender } = render(tab(0));
  await screen.findByText("No trajectories yet");

  kept = [group(1)];
  rerender(tab(1));
  expect(await screen.findByRole("button", { name: "question 1" })).toBeTruthy();
});

test("changing a filter closes the open group", async () => {
  kept = [group(2), group(1)];
  render(tab(0));
  fireEvent.click(await screen.findByRole("button", { name: "question 1" }));
  fireEvent.change(screen.getByRole("combobox", { name: "Purpose" }), { target: { value: "eval" } });
  expect(window.location.search).toBe("?purpose=eval");
});
