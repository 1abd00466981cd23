/** Bar chart of all steps: number of tokens committed, coloured by confidence. Click to seek. */
import { type PointerEvent, useEffect, useRef } from "react";

import type { Replay } from "./replay-model";

const HEIGHT = 44;

interface Props {
  replay: Replay;
  at: number;
  onSeek: (at: number) => void;
}

export function StepStrip({ replay, at, onSeek }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const element = canvas.current;
    if (element === null) return;
    const redraw = () => draw(element, replay);
    redraw();
    const observer = new ResizeObserver(redraw);
    const themed = new MutationObserver(redraw);
    observer.observe(element);
    themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => {
      observer.disconnect();
      themed.disconnect();
    };
  }, [replay]);
  const seek = (event: PointerEvent<HTMLDivElement>) => {
    if (event.type === "pointermove" && event.buttons === 0) return;
    const box = event.currentTarget.getBoundingClientRect();
    onSeek(Math.min(replay.numSteps, Math.max(0, Math.ceil(((event.clientX - box.left) / box.width) * replay.numSteps))));
  };
  return (
    <div className="strip" onPointerDown={seek} onPointerMove={seek} aria-hidden="true">
      <canvas ref={canvas} height={HEIGHT} />
      <span className="strip-at" style={{ width: `${(at / Math.max(1, replay.numSteps)) * 100}%` }} />
    </div>
  );
}

/** Draw one bar per step, or per pixel if there are more steps than pixels. */
function draw(canvas: HTMLCanvasElement, replay: Replay): void {
  const scale = devicePixelRatio;
  const width = canvas.clientWidth;
  canvas.width = width * scale;
  canvas.height = HEIGHT * scale;
  const context = canvas.getContext("2d");
  if (context === null) return;
  context.scale(scale, scale);
  const style = getComputedStyle(canvas);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const most = Math.max(1, ...replay.commits.map((tokens) => tokens.length));
  const each = width / Math.max(1, replay.numSteps);
  for (const [place, tokens] of replay.commits.entries()) {
    const least = Math.min(1, ...tokens.map((token) => token.confidence ?? 1));
    context.fillStyle = colour(least < 0.5 ? "--bad" : least < 0.9 ? "--warn" : "--good");
    const height = Math.max(2, (tokens.length / most) * (HEIGHT - 4));
    context.fillRect(place * each, HEIGHT - height, Math.max(0.6, each - (each > 4 ? 1.5 : 0)), height);
  }
}
