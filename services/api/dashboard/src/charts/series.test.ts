import { expect, test } from "vitest";

import { align, SeriesStore, smooth, thin } from "./series";

test("thinning keeps the ends and every spike", () => {
  const steps = Array.from({ length: 10_000 }, (_, place) => place);
  const values = steps.map((step) => (step === 5123 ? 99 : step === 777 ? -99 : Math.sin(step)));
  const thinned = thin({ steps, values }, 200);
  expect(thinned.steps.length).toBeLessThanOrEqual(200);
  expect([thinned.steps[0], thinned.steps.at(-1)]).toEqual([0, 9999]);
  expect([Math.min(...thinned.values), Math.max(...thinned.values)]).toEqual([-99, 99]);
});

test("a series stays bounded however long it grows", () => {
  const store = new SeriesStore();
  for (let step = 0; step < 50_000; step++) store.append(step, { loss: step });
  expect(store.get("loss")?.steps.length).toBeLessThanOrEqual(1200);
  expect(store.get("loss")?.steps.at(-1)).toBe(49_999);
});

test("a step that a new attempt repeats removes the later ones", () => {
  const store = new SeriesStore();
  for (const step of [1, 2, 3, 4]) store.append(step, { loss: step });
  store.append(3, { loss: 30 });
  expect(store.get("loss")).toEqual({ steps: [1, 2, 3], values: [1, 2, 30] });
});

test("smoothing does not change a constant series", () => {
  expect(smooth([2, 2, 2], 0.9)).toEqual([2, 2, 2].map((value) => expect.closeTo(value, 9)));
});

test("series over different steps are aligned with gaps", () => {
  const aligned = align([{ steps: [1, 3], values: [10, 30] }, { steps: [2, 3], values: [200, 300] }]);
  expect(aligned).toEqual({ steps: [1, 2, 3], columns: [[10, null, 30], [null, 200, 300]] });
});
