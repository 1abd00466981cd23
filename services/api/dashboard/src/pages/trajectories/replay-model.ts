/** A trajectory as a film: which token was committed when, in which block, and what the model saw before each step. */
import type { TrajectoryDetail } from "../../api/types";

export interface ReplayToken {
  /** Place in the response. */
  index: number;
  text: string;
  id: number;
  /** Denoising step that committed it, from 1. */
  step: number;
  /** Rank of its step among those of its block, from 0. */
  order: number;
  /** Highest rank of its block. */
  lastOrder: number;
  confidence: number | null;
  logprob: number | null;
  /** Whether it stands behind the end token: sampled, seen by later steps of its block, no part of the answer. */
  isAfterEnd: boolean;
}

export interface ReplayBlock {
  index: number;
  tokens: readonly ReplayToken[];
  firstStep: number;
  lastStep: number;
}

export interface Replay {
  tokens: readonly ReplayToken[];
  blocks: readonly ReplayBlock[];
  numSteps: number;
  /** Tokens of each step; place 0 is step 1. */
  commits: readonly (readonly ReplayToken[])[];
}

/** The film of a trajectory. Blocks lie on the grid of prompt and response together, so the first may be shorter. */
export function buildReplay(detail: TrajectoryDetail): Replay {
  const blocks: ReplayBlock[] = [];
  const offset = detail.prompt_ids.length;
  for (let from = 0; from < detail.token_ids.length;) {
    const to = Math.min(detail.token_ids.length, from + detail.block_size - ((offset + from) % detail.block_size));
    blocks.push(buildBlock(detail, blocks.length, from, to));
    from = to;
  }
  const tokens = blocks.flatMap((block) => block.tokens);
  const numSteps = tokens.reduce((most, token) => Math.max(most, token.step), 0);
  const commits: ReplayToken[][] = Array.from({ length: numSteps }, () => []);
  for (const token of tokens) commits[token.step - 1]?.push(token);
  return { tokens, blocks, numSteps, commits };
}

function buildBlock(detail: TrajectoryDetail, index: number, from: number, to: number): ReplayBlock {
  const steps = [...new Set(detail.unmask_step.slice(from, to))].sort((a, b) => a - b);
  const tokens = Array.from({ length: to - from }, (_, place): ReplayToken => {
    const at = from + place;
    const step = detail.unmask_step[at] ?? 0;
    return {
      index: at,
      text: detail.tokens === null ? `#${detail.token_ids[at] ?? 0}` : (detail.tokens[at] ?? ""),
      id: detail.token_ids[at] ?? 0,
      step,
      order: steps.indexOf(step),
      lastOrder: steps.length - 1,
      confidence: detail.confidences[at] ?? null,
      logprob: detail.logprobs[at] ?? null,
      isAfterEnd: at >= detail.visible_len,
    };
  });
  return { index, tokens, firstStep: steps[0] ?? 0, lastStep: steps.at(-1) ?? 0 };
}

/** The step that a block shows when the film stands after `at` steps: equal numbers mean an equal picture.
 *
 * -1 is a block that the model had not begun; the steps of the block itself count; all later ones are one.
 */
export function blockPosition(block: ReplayBlock, at: number): number {
  return at < block.firstStep - 1 ? -1 : Math.min(at, block.lastStep + 1);
}

const STRETCH = 32;

/** The blocks in runs that are laid out together; one run for a response of ordinary length. */
export function stretchesOf(blocks: readonly ReplayBlock[]): ReplayBlock[][] {
  const size = blocks.length > 2 * STRETCH ? STRETCH : Math.max(1, blocks.length);
  return Array.from({ length: Math.ceil(blocks.length / size) }, (_, place) => blocks.slice(place * size, (place + 1) * size));
}

/** A number of steps after which the stretch looks as after `at`; equal numbers mean an equal picture. */
export function stretchPosition(blocks: readonly ReplayBlock[], at: number): number {
  const first = Math.min(...blocks.map((block) => block.firstStep));
  const last = Math.max(...blocks.map((block) => block.lastStep));
  return Math.min(Math.max(at, first - 2), last + 1);
}

export interface AnswerSpan {
  tokens: readonly ReplayToken[];
  firstStep: number;
  lastStep: number;
  /** The first token, in the order of commitment, that differs from the gold answer; null when none does. */
  wrong: ReplayToken | null;
}

/** Where the extracted answer stands and when it was committed; null when it cannot be found in the text. */
export function findAnswer(replay: Replay, extracted: string, gold: string, isCorrect: boolean): AnswerSpan | null {
  if (extracted === "") return null;
  const visible = replay.tokens.filter((token) => !token.isAfterEnd);
  const text = visible.map((token) => token.text).join("");
  const boxed = text.lastIndexOf(`\\boxed{${extracted}`);
  const start = boxed >= 0 ? boxed + "\\boxed{".length : text.lastIndexOf(extracted);
  if (start < 0) return null;
  const places = placesOf(visible);
  const tokens = visible.filter((_, place) => overlaps(places[place], start, start + extracted.length));
  const steps = tokens.map((token) => token.step);
  const differing = visible.filter((_, place) => {
    const at = places[place];
    return !isCorrect && at !== undefined && overlaps(at, start, start + extracted.length) && differs(extracted, gold, at[0] - start, at[1] - start);
  });
  const wrong = differing.sort((a, b) => a.step - b.step || a.index - b.index)[0] ?? null;
  return { tokens, firstStep: Math.min(...steps), lastStep: Math.max(...steps), wrong };
}

/** [from, to) of every token in the joined text. */
function placesOf(tokens: readonly ReplayToken[]): [number, number][] {
  let end = 0;
  return tokens.map((token) => [end, (end += token.text.length)]);
}

function overlaps(place: [number, number] | undefined, from: number, to: number): boolean {
  return place !== undefined && place[0] < to && place[1] > from && place[1] > place[0];
}

/** Whether the answers differ within [from, to); of unequal length, what stands behind the shorter differs. */
function differs(answer: string, gold: string, from: number, to: number): boolean {
  const [start, end] = [Math.max(0, from), Math.min(answer.length, to)];
  return answer.slice(start, end) !== gold.slice(start, end);
}

/** The visible tokens of which the model was least sure, least first. */
export function leastSure(replay: Replay, count: number): ReplayToken[] {
  return replay.tokens
    .filter((token) => !token.isAfterEnd && token.confidence !== null)
    .sort((a, b) => (a.confidence ?? 1) - (b.confidence ?? 1))
    .slice(0, count);
}

/** A token's text so that white space can be seen. */
export function visibleText(text: string): string {
  return text === "" ? "⋯" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +$/, (spaces) => "␣".repeat(spaces.length));
}
