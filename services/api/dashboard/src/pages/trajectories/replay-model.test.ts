import { expect, test } from "vitest";

import { exampleTrajectory } from "./example";
import { blockPosition, buildReplay, findAnswer, lowestConfidence, type ReplayBlock, toBlockRanges, rangePosition } from "./replay-model";

test("the block grid starts with the prompt", () => {
  const { blocks } = buildReplay(exampleTrajectory());
  // Three prompt tokens in blocks of four leave one place in the first block.
  expect(blocks.map((block) => block.tokens.length)).toEqual([1, 4, 4, 4]);
  expect(blocks.map((block) => [block.firstStep, block.lastStep])).toEqual([[1, 1], [2, 3], [4, 6], [7, 7]]);
});

test("every token is committed by exactly one step", () => {
  const { commits, tokens, numSteps } = buildReplay(exampleTrajectory());
  expect(commits.map((step) => step.length)).toEqual([1, 2, 2, 2, 1, 1, 4]);
  expect(commits.flat()).toHaveLength(tokens.length);
  expect(numSteps).toBe(7);
});

test("the order of commitment is counted within the block", () => {
  const { tokens } = buildReplay(exampleTrajectory());
  expect(tokens.slice(5, 9).map((token) => token.order)).toEqual([0, 0, 1, 2]);
});

test("a block starts with the step that first commits in it", () => {
  const third = buildReplay(exampleTrajectory()).blocks[2];
  if (third === undefined) throw new Error("no third block");
  expect([2, 3, 4, 6, 7].map((at) => blockPosition(third, at))).toEqual([-1, 3, 4, 6, 7]);
});

test("tokens after EOS are marked", () => {
  const { tokens } = buildReplay(exampleTrajectory());
  expect(tokens.filter((token) => token.isAfterEnd).map((token) => token.text)).toEqual(["x", "y"]);
});

test("the first wrong token is found", () => {
  const found = findAnswer(buildReplay(exampleTrajectory()), "71", "72", false);
  expect(found?.tokens.map((token) => token.text)).toEqual(["7", "1"]);
  expect([found?.firstStep, found?.lastStep]).toEqual([5, 6]);
  expect([found?.wrong?.text, found?.wrong?.step]).toEqual(["1", 6]);
});

test("of several wrong tokens the first committed one is returned, regardless of its position", () => {
  const unmask = [1, 2, 2, 3, 3, 4, 4, 6, 5, 7, 7, 7, 7];
  const found = findAnswer(buildReplay(exampleTrajectory({ unmask_step: unmask })), "71", "95", false);
  expect([found?.wrong?.text, found?.wrong?.step]).toEqual(["1", 5]);
});

test("a correct answer has no wrong token, and a missing answer has no span", () => {
  const replay = buildReplay(exampleTrajectory());
  expect(findAnswer(replay, "71", "71", true)?.wrong).toBeNull();
  expect(findAnswer(replay, "", "72", false)).toBeNull();
  expect(findAnswer(replay, "1000", "72", false)).toBeNull();
});

test("the tokens with the lowest confidence exclude those after EOS", () => {
  expect(lowestConfidence(buildReplay(exampleTrajectory()), 2).map((token) => token.text)).toEqual(["1", "7"]);
});

test("without a tokenizer the ids are shown", () => {
  expect(buildReplay(exampleTrajectory({ tokens: null })).tokens[0]?.text).toBe("#10");
});

test("a long response is split into block ranges, and a range changes only with its own blocks", () => {
  const [block] = buildReplay(exampleTrajectory()).blocks;
  const long = Array.from({ length: 70 }, (_, index) => ({ ...block, index, firstStep: 2 * index + 1, lastStep: 2 * index + 2 }) as ReplayBlock);
  expect(toBlockRanges(long).map((stretch) => stretch.length)).toEqual([32, 32, 6]);
  expect(toBlockRanges(long.slice(0, 64)).map((stretch) => stretch.length)).toEqual([64]);
  const [, second = []] = toBlockRanges(long);
  expect([0, 63, 64, 65, 128, 129, 140].map((at) => rangePosition(second, at))).toEqual([63, 63, 64, 65, 128, 129, 129]);
  for (const at of [0, 63, 64, 100, 129, 140]) {
    expect(second.map((one) => blockPosition(one, rangePosition(second, at)))).toEqual(second.map((one) => blockPosition(one, at)));
  }
});
