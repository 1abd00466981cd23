/** A range of blocks of a long response. Ranges outside the viewport skip layout and render after the visible ones. */
import { memo, useDeferredValue, useRef } from "react";

import { useNear } from "../../ui/use-near";
import { BlockView, type Colouring } from "./block-view";
import { blockPosition, type ReplayBlock } from "./replay-model";

export interface Look {
  colouring: Colouring;
  advantage: number | null;
  /** First and last token index of the answer in the response. */
  answerFrom: number;
  answerTo: number;
  wrongIndex: number;
  showsOrder: boolean;
}

interface Props extends Look {
  blocks: readonly ReplayBlock[];
  /** See rangePosition. */
  at: number;
  isLong: boolean;
}

export const BlockRange = memo(function BlockRange({ blocks, at, isLong, ...look }: Props) {
  const element = useRef<HTMLDivElement>(null);
  const isNear = useNear(element);
  const later = useDeferredValue(at);
  const shown = isLong && !isNear ? later : at;
  return (
    <div ref={element} className={isLong ? "block-range" : undefined}>
      {blocks.map((block) => <BlockView key={block.index} block={block} position={blockPosition(block, shown)} {...look} />)}
    </div>
  );
});
