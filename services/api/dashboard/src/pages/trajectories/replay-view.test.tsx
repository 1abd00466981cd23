// @vitest-environment jsdom
import { cleanup, fireEvent, render, screen, waitFor, within } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { exampleTrajectory } from "./example";
import { ReplayView } from "./replay-view";

beforeEach(() => {
  for (const observer of ["ResizeObserver", "IntersectionObserver"]) vi.stubGlobal(observer, class { observe() {} disconnect() {} });
  HTMLCanvasElement.prototype.getContext = () => null;
});
afterEach(cleanup);

const film = () => document.querySelector(".film")?.textContent?.replace(/\s/g, "") ?? "";
const press = (key: string) => fireEvent.keyDown(document, { key });

function show() {
  const onSibling = vi.fn();
  render(<ReplayView detail={exampleTrajectory()} onSibling={onSibling} />);
  fireEvent.click(screen.getByRole("checkbox", { name: /step numbers/ }));
  return { onSibling };
}

test("it opens with the whole response", () => {
  show();
  expect(film()).toBe("27+45=\\boxed{71}<|im_end|>xy");
});

test("before the first step the model saw nothing but the masks of the first block", () => {
  show();
  press("Home");
  expect(film()).toBe("▒");
});

test("every key press shows the state that the next step saw", () => {
  show();
  press("Home");
  const states = Array.from({ length: 7 }, () => {
    press("ArrowRight");
    return film();
  });
  expect(states.slice(0, 4)).toEqual(["2▒▒▒▒", "27+▒▒", "27+45▒▒▒▒", "27+45=\\boxed{▒▒"]);
  expect(states.at(-1)).toBe("27+45=\\boxed{71}<|im_end|>xy");
});

test("the scrubber goes to a step", () => {
  show();
  fireEvent.change(screen.getByRole("slider", { name: "Denoising step" }), { target: { value: "5" } });
  expect(film()).toBe("27+45=\\boxed{7▒");
  expect(document.querySelector(".token.fresh")?.textContent?.trim()).toBe("7");
});

test("stretches of a long response that are out of sight follow", async () => {
  const tokens = Array.from({ length: 400 }, () => "x");
  const ones = tokens.map(() => 1);
  const unmask_step = tokens.map((_, place) => place + 1);
  render(<ReplayView detail={exampleTrajectory({ tokens, unmask_step, token_ids: ones, logprobs: ones, confidences: ones, visible_len: 400 })} onSibling={vi.fn()} />);
  expect(document.querySelectorAll(".stretch")).toHaveLength(4);
  fireEvent.change(screen.getByRole("slider", { name: "Denoising step" }), { target: { value: "150" } });
  await waitFor(() => expect(document.querySelectorAll(".token.none")).toHaveLength(400 - 153));
});

test("it says where it committed to the wrong number, and goes there", () => {
  show();
  press("Home");
  fireEvent.click(screen.getByRole("button", { name: "Show that step" }));
  expect(document.querySelector(".token.wrong")?.textContent?.trim()).toBe("1");
  expect(screen.getByText(/committed to the wrong answer at step 6/)).toBeTruthy();
});

test("confidence can colour the tokens", () => {
  show();
  fireEvent.click(screen.getByRole("button", { name: "Confidence" }));
  const unsure = [...document.querySelectorAll(".film .token.low")].map((token) => token.textContent?.trim());
  expect(unsure).toEqual(["1"]);
});

test("up and down go to the group's other responses", () => {
  const { onSibling } = show();
  press("ArrowDown");
  press("ArrowUp");
  expect(onSibling.mock.calls).toEqual([[1], [-1]]);
});

test("a response that could not be judged shows the cause and no number", () => {
  const verdict = { extracted: "71", reason: "overloaded" };
  render(<ReplayView detail={exampleTrajectory({ outcome: "unverifiable", reward: null, rewards: {}, advantage: null, verdict })} onSibling={vi.fn()} />);

  const card = screen.getByRole("region", { name: "Reward" });
  const fact = (name: string) => within(card).getByText(name).nextElementSibling?.textContent;
  expect([fact("Sum"), fact("Advantage")]).toEqual(["–", "–"]);
  expect(screen.getByText("overloaded")).toBeTruthy();
});
