/** One uPlot canvas with lines, markers, a synchronised cursor and a controlled zoom. */
import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import { useNear } from "../ui/use-near";

export interface PlotLine {
  label: string;
  /** Name of a CSS variable, e.g. "--series-1". */
  colour: string;
  /** Draw dots, for sparse series. */
  dots?: boolean;
  /** Draw faintly, under the smoothed line. */
  faint?: boolean;
}

export interface Marker {
  x: number;
  kind: "checkpoint" | "evaluation" | "attempt" | "stage" | "revision";
  label: string;
}

export type Range = [number, number] | null;

interface Props {
  label: string;
  data: uPlot.AlignedData;
  lines: readonly PlotLine[];
  markers: readonly Marker[];
  height: number;
  log: boolean;
  zeroBased: boolean;
  range: Range;
  onRange: (range: Range) => void;
  /** Called with the index under the cursor; null when the cursor leaves. */
  onCursor?: (index: number | null) => void;
  formatX: (value: number) => string;
  formatY: (value: number) => string;
  sync: string;
}

const MARKER_COLOURS: Record<Marker["kind"], string> = {
  checkpoint: "--line-strong", evaluation: "--series-3", attempt: "--bad", stage: "--muted", revision: "--warn",
};

/** The canvas exists only near the viewport, which bounds memory; the label summarizes the data for screen readers. */
export function UplotChart(props: Props) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const isNear = useNear(host);
  const latest = useRef(props);
  useEffect(() => {
    latest.current = props;
  });
  const shape = JSON.stringify([props.lines, props.log, props.zeroBased, props.height, props.sync]);

  useEffect(() => {
    const element = host.current;
    if (element === null || !isNear) return;
    const build = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element, () => latest.current), latest.current.data, element);
      applyRange(plot.current, latest.current.range);
    };
    build();
    const resized = new ResizeObserver(() => {
      const width = Math.floor(element.clientWidth);
      if (plot.current !== null && width > 0 && width !== plot.current.width) plot.current.setSize({ width, height: latest.current.height });
    });
    resized.observe(element);
    const stop = onThemeChange(build);
    return () => {
      stop();
      resized.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape, isNear]);

  useEffect(() => {
    plot.current?.setData(props.data, false);
    if (plot.current !== null) applyRange(plot.current, props.range);
  }, [props.data, props.range]);

  useEffect(() => {
    plot.current?.redraw(false);
  }, [props.markers]);

  return <div ref={host} role="img" aria-label={props.label} style={{ height: props.height }} />;
}

function applyRange(plot: uPlot, range: Range): void {
  const xs = plot.data[0];
  const [min, max] = range ?? [xs[0] ?? 0, xs.at(-1) ?? 1];
  plot.batch(() => plot.setScale("x", { min, max: max > min ? max : min + 1 }));
}

function options(element: HTMLElement, props: () => Props): uPlot.Options {
  const { lines, log, zeroBased, height, sync } = props();
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  let isOwnRange = false;
  return {
    width: Math.max(120, Math.floor(element.clientWidth)),
    height,
    padding: [8, 18, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: sync, scales: ["x", null] }, drag: { x: true, y: false, setScale: false }, points: { size: 5 }, y: false },
    scales: {
      x: { time: false },
      y: log
        ? { distr: 3 }
        : { range: (_plot, low, high) => (low === null || high === null ? [0, 1] : axisRange(low, high, zeroBased)) },
    },
    axes: [
      { ...axis, size: 24, values: (_plot, ticks) => ticks.map((tick) => props().formatX(tick)), space: 60 },
      { ...axis, size: 52, values: (_plot, ticks) => ticks.map((tick) => (tick === null ? "" : props().formatY(tick))), space: 28 },
    ],
    series: [
      {},
      ...lines.map((line): uPlot.Series => ({
        label: line.label,
        stroke: colour(line.colour) + (line.faint ? "55" : ""),
        width: line.faint ? 1 : 1.5,
        spanGaps: true,
        points: line.dots ? { show: true, size: 6, fill: colour(line.colour) } : { show: false },
      })),
    ],
    hooks: {
      draw: [(plot) => drawMarkers(plot, props().markers, colour)],
      setSelect: [
        (plot) => {
          if (isOwnRange || plot.select.width < 4) return;
          isOwnRange = true;
          const range: Range = [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")];
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          isOwnRange = false;
          props().onRange(range);
        },
      ],
      setCursor: [(plot) => props().onCursor?.(plot.cursor.idx ?? null)],
      ready: [(plot) => plot.over.addEventListener("dblclick", () => props().onRange(null))],
    },
  };
}

/** Range of the axis with a margin; starts at 0 if `zeroBased`. */
function axisRange(low: number, high: number, zeroBased: boolean): [number, number] {
  const from = zeroBased ? Math.min(0, low) : low;
  const span = high - from || Math.abs(high) || 1;
  return [zeroBased && from === 0 ? 0 : from - span * 0.06, high + span * 0.08];
}

function drawMarkers(plot: uPlot, markers: readonly Marker[], colour: (name: string) => string): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.lineWidth = devicePixelRatio;
  for (const marker of markers) {
    const x = Math.round(plot.valToPos(marker.x, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = colour(MARKER_COLOURS[marker.kind]);
    if (marker.kind === "checkpoint" || marker.kind === "evaluation") {
      const size = 3 * devicePixelRatio;
      ctx.fillRect(x - size / 2, bbox.top + bbox.height - (marker.kind === "checkpoint" ? 2 : 4) * devicePixelRatio, size, 4 * devicePixelRatio);
      continue;
    }
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(x + 0.5, bbox.top);
    ctx.lineTo(x + 0.5, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function onThemeChange(changed: () => void): () => void {
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  const observer = new MutationObserver(changed);
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  media.addEventListener("change", changed);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", changed);
  };
}
