// @vitest-environment jsdom
import { cleanup, render, screen } from "@testing-library/react";
import { afterEach, expect, test } from "vitest";

import type { Forecast } from "../../api/types";
import { ForecastNote } from "./forecast-note";

afterEach(cleanup);

const FORECAST: Forecast = {
  object: "job.forecast", accepted: true, problems: [], spec: {}, steps: { sft: 600, rl: 40 }, parameters: 250_000,
  files: { "train.jsonl": { rows: 64, sft_rows: 60, rl_rows: 64, longest_prompt_chars: 25, longest_completion_chars: 12, longest_prompt_tokens: 24, longest_sample_tokens: 32, rows_too_long: 3 } },
  memory_bytes: 4 << 20, activation_bytes: 3 << 20, disk_bytes: 12 << 20, disk_free_bytes: 10 * 2 ** 30,
  probe: { prompts: 4, generations: 4, zero_variance_rate: 0.75, all_correct: 1, all_wrong: 2 }, probe_skipped: null, seconds: 7200, seconds_from: "job_1", seconds_are_rough: false,
};

test("a forecast is read in words and units", () => {
  render(<ForecastNote forecast={FORECAST} />);
  const text = screen.getByLabelText("Forecast").textContent;
  expect(text).toContain("The job can be submitted.");
  expect(text).toContain("Steps of sft600");
  expect(text).toContain("12 MiB of 10 GiB free");
  expect(text).toContain("longest sample 32 tokens; 3 rows are too long and will be dropped");
  expect(text).toContain("Time, at the pace of job_12 h");
  expect(text).toContain("4, 4 responses each: 1 all right, 2 all wrong, 75.0 % without a signal");
});

test("what would stop the job is no good news", () => {
  const problems = [{ path: "rl.num_generations", message: "every group was all wrong" }];
  render(<ForecastNote forecast={{ ...FORECAST, accepted: false, problems, probe: null, probe_skipped: "No replica is free." }} />);
  expect(screen.queryByText("The job can be submitted.")).toBeNull();
  expect(screen.getByRole("alert").textContent).toContain("rl.num_generations every group was all wrong");
  expect(screen.getByLabelText("Forecast").textContent).toContain("none. No replica is free.");
});
