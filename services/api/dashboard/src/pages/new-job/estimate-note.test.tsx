// @vitest-environment jsdom
import { cleanup, render, screen } from "@testing-library/react";
import { afterEach, expect, test } from "vitest";

import type { Estimate } from "../../api/types";
import { EstimateNote } from "./estimate-note";

afterEach(cleanup);

const ESTIMATE: Estimate = {
  object: "job.estimate", accepted: true, problems: [], spec: {}, steps: { sft: 600, rl: 40 }, parameters: 250_000,
  files: { "train.jsonl": { rows: 64, sft_rows: 60, rl_rows: 64, longest_prompt_chars: 25, longest_completion_chars: 12, longest_prompt_tokens: 24, longest_sample_tokens: 32, rows_too_long: 3 } },
  memory_bytes: 4 << 20, activation_bytes: 3 << 20, disk_bytes: 12 << 20, disk_free_bytes: 10 * 2 ** 30,
  probe: { prompts: 4, generations: 4, zero_variance_rate: 0.75, reward_mean: 0.25, all_correct: 1, all_wrong: 2 }, probe_skipped: null, seconds: 7200, seconds_from: "job_1", seconds_are_rough: false,
};

test("an estimate is shown with labels and units", () => {
  render(<EstimateNote estimate={ESTIMATE} />);
  const text = screen.getByLabelText("Estimate").textContent;
  expect(text).toContain("Ready to submit");
  expect(text).toContain("Steps (sft)600");
  expect(text).toContain("12 MiB of 10 GiB free");
  expect(text).toContain("longest sample 32 tokens; 3 rows exceed the limit and will be dropped");
  expect(text).toContain("Estimated time (from job_1)2 h");
  expect(text).toContain("4 prompts with 4 responses each: mean reward 0.25, 1 all correct, 2 all incorrect, 75.0 % with equal rewards");
});

test("a problem that prevents the job from running is shown as an error", () => {
  const problems = [{ path: "rl.num_generations", message: "every group was all wrong" }];
  render(<EstimateNote estimate={{ ...ESTIMATE, accepted: false, problems, probe: null, probe_skipped: "No replica is free." }} />);
  expect(screen.queryByText("Ready to submit")).toBeNull();
  expect(screen.getByRole("alert").textContent).toContain("rl.num_generations every group was all wrong");
  expect(screen.getByLabelText("Estimate").textContent).toContain("None. No replica is free.");
});
