// @vitest-environment jsdom
import { act, cleanup, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { UplotChart } from "./uplot-chart";

const plots = vi.hoisted(() => ({ alive: 0 }));
vi.mock("uplot", () => ({
  default: class {
    data = [[]];
    width = 0;
    constructor() { plots.alive += 1; }
    batch() {}
    setData() {}
    redraw() {}
    destroy() { plots.alive -= 1; }
  },
}));

let scrollTo: (isIntersecting: boolean) => void;

beforeEach(() => {
  vi.stubGlobal("ResizeObserver", class { observe() {} disconnect() {} });
  vi.stubGlobal("matchMedia", () => ({ addEventListener() {}, removeEventListener() {} }));
  vi.stubGlobal("IntersectionObserver", class {
    constructor(report: (entries: { isIntersecting: boolean }[]) => void) {
      scrollTo = (isIntersecting) => act(() => report([{ isIntersecting }]));
    }
    observe() {}
    disconnect() {}
  });
});
afterEach(cleanup);

test("a chart is drawn only near the viewport, and keeps its height and label elsewhere", () => {
  render(<UplotChart label="Loss: 3 to 1" data={[[1], [3]]} lines={[]} markers={[]} height={168} log={false} zeroBased range={null} onRange={() => {}} formatX={String} formatY={String} sync="job" />);
  const chart = screen.getByRole("img", { name: "Loss: 3 to 1" });
  expect([plots.alive, chart.style.height]).toEqual([0, "168px"]);
  scrollTo(true);
  expect(plots.alive).toBe(1);
  scrollTo(false);
  expect([plots.alive, chart.style.height]).toEqual([0, "168px"]);
});
