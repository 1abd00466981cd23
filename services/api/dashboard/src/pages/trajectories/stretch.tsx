/** A stretch of a long response: what is out of sight is neither laid out nor, while its picture stays, drawn again. */
import { memo } from "react";

import { BlockView, type Colouring } from "./block-view";
import { blockPosition, type ReplayBlock } from "./replay-model";

export interface Look {
  colouring: Colouring;
  advantage: number | null;
  /** First and last place of the answer in the response. */
  answerFrom: number;
  answerTo: number;
  wrongIndex: number;
  showsOrder: boolean;
}

interface Props extends Look {
  blocks: readonly ReplayBlock[];
  /** See stretchPosition. */
  at: number;
  isLong: boolean;
}

export const Stretch = memo(function Stretch({ blocks, at, isLong, ...look }: Props) {
  return (
    <div className={isLong ? "stretch" : undefined}>
      {blocks.map((block) => <BlockView key={block.index} block={block} position={blockPosition(block, at)} {...look} />)}
    </div>
  );
});
