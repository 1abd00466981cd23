/** One block of the replay, memoized so that a step renders only the blocks it changes. */
import { memo } from "react";

import { type ReplayBlock, type ReplayToken, visibleText } from "./replay-model";

export type Colouring = "step" | "confidence" | "advantage";

interface Props {
  block: ReplayBlock;
  /** See blockPosition. */
  position: number;
  colouring: Colouring;
  advantage: number | null;
  /** First and last token index of the answer in the response. */
  answerFrom: number;
  answerTo: number;
  wrongIndex: number;
  showsOrder: boolean;
}

export const BlockView = memo(function BlockView({ block, position, colouring, advantage, answerFrom, answerTo, wrongIndex, showsOrder }: Props) {
  const state = position < 0 ? "ahead" : position < block.lastStep ? "current" : "done";
  return (
    <span className={`block ${state}`}>
      {block.tokens.map((token) => {
        const isCommitted = position >= token.step;
        const classes = [
          "token",
          isCommitted ? colourClass(token, colouring, advantage) : state === "ahead" ? "none" : "mask",
          isCommitted && position === token.step ? "fresh" : "",
          isCommitted && token.isAfterEnd ? "after-end" : "",
          token.index >= answerFrom && token.index <= answerTo && isCommitted ? "answer" : "",
          token.index === wrongIndex && isCommitted ? "wrong" : "",
        ];
        return (
          <span key={token.index} data-token={token.index} className={classes.join(" ")}>
            <span className="token-text">{isCommitted ? visibleText(token.text) : state === "ahead" ? " " : "▒"}</span>
            {showsOrder && <span className="token-order">{isCommitted ? token.step : " "}</span>}
          </span>
        );
      })}
      {block.tokens.some((token) => token.text.includes("\n")) && position >= 0 && <span className="line-end" />}
    </span>
  );
});

const RAMP = 4;
const LOW_CONFIDENCE = 0.5;
const HIGH_CONFIDENCE = 0.9;

function colourClass(token: ReplayToken, colouring: Colouring, advantage: number | null): string {
  if (colouring === "step") return `ramp-${token.lastOrder === 0 ? 0 : Math.round((token.order / token.lastOrder) * RAMP)}`;
  if (colouring === "confidence") {
    if (token.confidence === null) return "ramp-0";
    return token.confidence < LOW_CONFIDENCE ? "low" : token.confidence < HIGH_CONFIDENCE ? "mid" : "high";
  }
  if (advantage === null || Math.abs(advantage) < 1e-9) return "plain";
  return advantage > 0 ? "high" : "low";
}
