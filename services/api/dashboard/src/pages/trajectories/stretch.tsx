/** A stretch of a long response: what is out of sight is not laid out, and follows once what is in sight is drawn. */
import { memo, useDeferredValue, useRef } from "react";

import { useNear } from "../../ui/use-near";
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
  const element = useRef<HTMLDivElement>(null);
  const isNear = useNear(element);
  const later = useDeferredValue(at);
  const shown = isLong && !isNear ? later : at;
  return (
    <div ref={element} className={isLong ? "stretch" : undefined}>
      {blocks.map((block) => <BlockView key={block.index} block={block} position={blockPosition(block, shown)} {...look} />)}
    </div>
  );
});
