import { expect, test } from "vitest";

import { CHARTS, DEFAULT_METRICS, GROUPS, toChart } from "./metric-chart";
import { withUnit } from "./units";

test("the default charts are in the four groups, and no metric is drawn twice", () => {
  expect(CHARTS).toHaveLength(12);
  expect(new Set(CHARTS.map((chart) => chart.group))).toEqual(new Set(GROUPS));
  expect(new Set(DEFAULT_METRICS).size).toBe(DEFAULT_METRICS.length);
  const [chart] = CHARTS.filter((each) => each.id === "logprob-difference");
  expect(chart).toMatchObject({ title: "Trainer-rollout log-prob difference", unit: "nats", log: true, stages: ["rl"] });
});

test("an added chart has the unit and the meaning of its metric", () => {
  expect(toChart("perf/mfu")).toMatchObject({ title: "perf/mfu", unit: "fraction", lines: [{ metric: "perf/mfu", label: "mfu" }] });
  expect(toChart("perf/mfu").about).toContain("Model FLOPs utilization");
});

test("a metric named after a grader or a number of responses is described by its pattern", () => {
  expect(toChart("reward/my_grader/mean").about).toContain("one grader");
  expect(toChart("eval/validation/pass@8").unit).toBe("fraction");
  expect(toChart("other/pass@8")).toMatchObject({ about: "", unit: "number" });
});

test("a value is shown with its unit", () => {
  expect([withUnit(0.125, "fraction"), withUnit(90, "seconds"), withUnit(2 ** 21, "bytes"), withUnit(1500, "tokens/s"), withUnit(undefined, "GiB")]).toEqual([
    "12.5 %", "1 min 30 s", "2.0 MiB", "1,500/s", "–",
  ]);
});
