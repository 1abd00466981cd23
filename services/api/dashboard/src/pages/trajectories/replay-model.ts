/** Model of the replay: the step and block in which each token was committed. */
import type { TrajectoryDetail } from "../../api/types";

export interface ReplayToken {
  /** Index in the response. */
  index: number;
  text: string;
  id: number;
  /** Denoising step that committed the token, from 1. */
  step: number;
  /** Rank of its step among those of its block, from 0. */
  order: number;
  /** Highest rank of its block. */
  lastOrder: number;
  confidence: number | null;
  logprob: number | null;
  /** Whether it follows EOS: such tokens are sampled and condition later steps of the block, but are not part of the response. */
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
  /** Tokens committed by each step; index 0 is step 1. */
  commits: readonly (readonly ReplayToken[])[];
}

/** Build the replay. The block grid starts with the prompt, so the first block of the response may be shorter. */
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

/** Key of a block's appearance after `at` steps; equal keys render equally, so memoized blocks can skip rendering.
 *
 * -1 before the block is started, the step while it is denoised, and one constant afterwards.
 */
export function blockPosition(block: ReplayBlock, at: number): number {
  return at < block.firstStep - 1 ? -1 : Math.min(at, block.lastStep + 1);
}

const BLOCKS_PER_RANGE = 32;

/** Split the blocks into ranges that are laid out together; a response of ordinary length is one range. */
export function toBlockRanges(blocks: readonly ReplayBlock[]): ReplayBlock[][] {
  const size = blocks.length > 2 * BLOCKS_PER_RANGE ? BLOCKS_PER_RANGE : Math.max(1, blocks.length);
  return Array.from({ length: Math.ceil(blocks.length / size) }, (_, place) => blocks.slice(place * size, (place + 1) * size));
}

/** Clamp `at` to the steps that change the range; equal results render equally. */
export function rangePosition(blocks: readonly ReplayBlock[], at: number): number {
  const first = Math.min(...blocks.map((block) => block.firstStep));
  const last = Math.max(...blocks.map((block) => block.lastStep));
  return Math.min(Math.max(at, first - 2), last + 1);
}

export interface AnswerSpan {
  tokens: readonly ReplayToken[];
  firstStep: number;
  lastStep: number;
  /** The first committed token that differs from the reference answer; null if none does. */
  wrong: ReplayToken | null;
}

/** Tokens and steps of the extracted answer; null if it is not found in the text. */
export function findAnswer(replay: Replay, extracted: string, reference: string, isCorrect: boolean): AnswerSpan | null {
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
    return !isCorrect && at !== undefined && overlaps(at, start, start + extracted.length) && differs(extracted, reference, at[0] - start, at[1] - start);
  });
  const wrong = differing.sort((a, b) => a.step - b.step || a.index - b.index)[0] ?? null;
  return { tokens, firstStep: Math.min(...steps), lastStep: Math.max(...steps), wrong };
}

/** [from, to) of each token in the concatenated text. */
function placesOf(tokens: readonly ReplayToken[]): [number, number][] {
  let end = 0;
  return tokens.map((token) => [end, (end += token.text.length)]);
}

function overlaps(place: [number, number] | undefined, from: number, to: number): boolean {
  return place !== undefined && place[0] < to && place[1] > from && place[1] > place[0];
}

/** Whether the answers differ within [from, to); characters beyond the shorter one differ. */
function differs(answer: string, reference: string, from: number, to: number): boolean {
  const [start, end] = [Math.max(0, from), Math.min(answer.length, to)];
  return answer.slice(start, end) !== reference.slice(start, end);
}

/** The `count` visible tokens with the lowest confidence, in ascending order. */
export function lowestConfidence(replay: Replay, count: number): ReplayToken[] {
  return replay.tokens
    .filter((token) => !token.isAfterEnd && token.confidence !== null)
    .sort((a, b) => (a.confidence ?? 1) - (b.confidence ?? 1))
    .slice(0, count);
}

/** Text of a token with white space made visible. */
export function visibleText(text: string): string {
  return text === "" ? "⋯" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +$/, (spaces) => "␣".repeat(spaces.length));
}
