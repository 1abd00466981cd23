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

const shownText = () => document.querySelector(".replay-text")?.textContent?.replace(/\s/g, "") ?? "";
const press = (key: string) => fireEvent.keyDown(document, { key });

function show() {
  const onSibling = vi.fn();
  render(<ReplayView detail={exampleTrajectory()} onSibling={onSibling} />);
  fireEvent.click(screen.getByRole("checkbox", { name: /step numbers/ }));
  return { onSibling };
}

test("it shows the complete response first", () => {
  show();
  expect(shownText()).toBe("27+45=\\boxed{71}<|im_end|>xy");
});

test("before the first step all tokens of the first block are masked", () => {
  show();
  press("Home");
  expect(shownText()).toBe("▒");
});

test("each key press shows the input of the next step", () => {
  show();
  press("Home");
  const states = Array.from({ length: 7 }, () => {
    press("ArrowRight");
    return shownText();
  });
  expect(states.slice(0, 4)).toEqual(["2▒▒▒▒", "27+▒▒", "27+45▒▒▒▒", "27+45=\\boxed{▒▒"]);
  expect(states.at(-1)).toBe("27+45=\\boxed{71}<|im_end|>xy");
});

test("the scrubber seeks to a step", () => {
  show();
  fireEvent.change(screen.getByRole("slider", { name: "Denoising step" }), { target: { value: "5" } });
  expect(shownText()).toBe("27+45=\\boxed{7▒");
  expect(document.querySelector(".token.fresh")?.textContent?.trim()).toBe("7");
});

test("block ranges outside the viewport are updated later", async () => {
  const tokens = Array.from({ length: 400 }, () => "x");
  const ones = tokens.map(() => 1);
  const unmask_step = tokens.map((_, place) => place + 1);
  render(<ReplayView detail={exampleTrajectory({ tokens, unmask_step, token_ids: ones, logprobs: ones, confidences: ones, visible_len: 400 })} onSibling={vi.fn()} />);
  expect(document.querySelectorAll(".block-range")).toHaveLength(4);
  fireEvent.change(screen.getByRole("slider", { name: "Denoising step" }), { target: { value: "150" } });
  await waitFor(() => expect(document.querySelectorAll(".token.none")).toHaveLength(400 - 153));
});

test("the first wrong token is shown, and its step can be opened", () => {
  show();
  press("Home");
  fireEvent.click(screen.getByRole("button", { name: "Show step" }));
  expect(document.querySelector(".token.wrong")?.textContent?.trim()).toBe("1");
  expect(screen.getByText(/First wrong token: step 6/)).toBeTruthy();
});

test("tokens can be coloured by confidence", () => {
  show();
  fireEvent.click(screen.getByRole("button", { name: "Confidence" }));
  const lowest = [...document.querySelectorAll(".replay-text .token.low")].map((token) => token.textContent?.trim());
  expect(lowest).toEqual(["1"]);
});

test("up and down go to the other responses of the group", () => {
  const { onSibling } = show();
  press("ArrowDown");
  press("ArrowUp");
  expect(onSibling.mock.calls).toEqual([[1], [-1]]);
});

test("an ungraded response shows the reason and no reward", () => {
  const verdict = { extracted: "71", reason: "overloaded" };
  render(<ReplayView detail={exampleTrajectory({ outcome: "unverifiable", reward: null, rewards: {}, advantage: null, verdict })} onSibling={vi.fn()} />);

  const card = screen.getByRole("region", { name: "Reward" });
  const fact = (name: string) => within(card).getByText(name).nextElementSibling?.textContent;
  expect([fact("Total"), fact("Advantage")]).toEqual(["–", "–"]);
  expect(screen.getByText("overloaded")).toBeTruthy();
});

test("what a grader says about its score is shown beside it", () => {
  const verdict = { explanations: { code: "test 1: passed\ntest 2: it gave '3', not '30'" } };
  render(<ReplayView detail={exampleTrajectory({ outcome: "scored", reward: 0.5, rewards: { code: 0.5, speed: 1 }, verdict })} onSibling={vi.fn()} />);

  const card = screen.getByRole("region", { name: "Reward" });
  expect(within(card).getByText("code").nextElementSibling?.textContent).toContain("test 2: it gave '3', not '30'");
  expect(within(card).getByText("speed").nextElementSibling?.textContent).toBe("1");
});

test("a response that was not compared shows its reward and no reference answer", () => {
  render(<ReplayView detail={exampleTrajectory({ outcome: "scored", reward: 0.5, rewards: { own: 0.5 }, reference_answer: "" })} onSibling={vi.fn()} />);
  expect(document.querySelector(".note")?.textContent).toContain("Reward 0.5");
  expect(document.body.textContent).not.toContain("reference answer");
  expect(within(screen.getByRole("region", { name: "Reward" })).queryByText("Compared")).toBeNull();
  expect(screen.getByText("Row of the data set")).toBeTruthy();
});
