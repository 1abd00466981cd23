import { expect, test } from "vitest";

import { assignColours, draw } from "./drawing";

const AXIS = { kind: "step" as const, secondsOf: (step: number) => step };

test("a line has the colour of its legend entry even if earlier lines have no values", () => {
  const lines = assignColours([{ label: "empty", series: undefined }, { label: "full", series: { steps: [1, 2], values: [3, 4] } }]);
  const present = lines.filter((line) => line.series !== undefined);
  expect(draw(present, 0, AXIS, false).lines.map((line) => [line.label, line.colour])).toEqual([["full", lines[1]?.colour]]);
  expect(lines.map((line) => line.colour)).toEqual(["--series-1", "--series-2"]);
});

test("a smoothed line is drawn over its raw line; sparse series are not smoothed", () => {
  const series = (count: number) => ({ steps: Array.from({ length: count }, (_, step) => step), values: Array.from({ length: count }, (_, step) => step % 2) });
  const smoothed = draw(assignColours([{ label: "many", series: series(40) }]), 0.9, AXIS, false);
  expect(smoothed.lines.map((line) => line.faint ?? false)).toEqual([true, false]);
  expect(Math.max(...(smoothed.data[2] as number[]))).toBeLessThan(1);
  expect(draw(assignColours([{ label: "few", series: series(4) }]), 0.9, AXIS, false).lines).toHaveLength(1);
});
