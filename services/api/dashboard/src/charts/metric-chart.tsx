/** A metric chart with its title, its legend (which is also its read-out) and its smoothing. */
import { memo, useMemo, useState } from "react";

import { number } from "../format";
import type { ChartSpec } from "./catalogue";
import { align, type Series, smooth } from "./series";
import { type Marker, type PlotLine, type Range, UplotChart } from "./uplot-chart";
import { withUnit } from "./units";

export interface Axis {
  kind: "step" | "time";
  /** Seconds since the job began, by step; only for `time`. */
  secondsOf: (step: number) => number;
}

export interface DrawnLine {
  label: string;
  series: Series | undefined;
}

interface Props {
  chart: ChartSpec;
  lines: readonly DrawnLine[];
  markers: readonly Marker[];
  smoothing: number;
  axis: Axis;
  range: Range;
  onRange: (range: Range) => void;
  sync: string;
  height?: number;
  /** Grows whenever the series do; they are changed in place. */
  version: number;
}

const SPARSE = 16;
const COLOURS = 7;

export const MetricChart = memo(function MetricChart({ chart, lines, markers, smoothing, axis, range, onRange, sync, height = 168, version }: Props) {
  const [cursor, setCursor] = useState<number | null>(null);
  const present = useMemo(() => lines.filter((line) => (line.series?.steps.length ?? 0) > 0), [lines, version]); // eslint-disable-line react-hooks/exhaustive-deps
  const drawn = useMemo(() => draw(present, smoothing, axis, chart.log ?? false), [present, smoothing, axis, chart.log]);
  const shownMarkers = useMemo(
    () => (axis.kind === "step" ? markers : markers.map((marker) => ({ ...marker, x: axis.secondsOf(marker.x) }))),
    [markers, axis],
  );
  const formatX = axis.kind === "step" ? stepLabel : clockLabel;
  const x = cursor === null ? undefined : drawn.data[0][cursor];
  return (
    <figure className="chart card" aria-label={chart.title}>
      <figcaption className={`chart-head ${lines.length > 2 ? "tall" : ""}`}>
        <h3 title={chart.about}>{chart.title}</h3>
        <ul className="legend">
          {lines.map((line, place) => (
            <li key={line.label} title={line.label}>
              <i style={{ background: `var(${colourOf(place)})` }} />
              <span className="clip">{line.label}</span>
              <b className="num">{withUnit(readOut(drawn.readable.get(line.label), cursor), chart.unit)}</b>
            </li>
          ))}
        </ul>
      </figcaption>
      {present.length === 0 ? (
        <div className="chart-empty muted small" style={{ height }}>
          No values yet
        </div>
      ) : (
        <UplotChart
          label={describe(chart, present)}
          data={drawn.data}
          lines={drawn.lines}
          markers={shownMarkers}
          height={height}
          log={chart.log ?? false}
          zeroBased={chart.unit !== "number" || present.every((line) => (line.series?.values ?? []).every((value) => value >= 0))}
          range={range}
          onRange={onRange}
          onCursor={setCursor}
          formatX={formatX}
          formatY={(value) => withUnit(value, chart.unit)}
          sync={sync}
        />
      )}
      <div className="chart-foot muted small num">{x === undefined ? " " : axis.kind === "step" ? `step ${number(Math.round(x))}` : `${clockLabel(x)} after the start`}</div>
    </figure>
  );
});

function colourOf(place: number): string {
  return `--series-${(place % COLOURS) + 1}`;
}

interface Drawn {
  data: [number[], ...(number | null)[][]];
  lines: PlotLine[];
  readable: Map<string, (number | null)[]>;
}

function draw(present: readonly DrawnLine[], smoothing: number, axis: Axis, log: boolean): Drawn {
  const { steps, columns } = align(present.map((line) => line.series ?? { steps: [], values: [] }));
  const xs = axis.kind === "step" ? steps : steps.map((step) => axis.secondsOf(step));
  const data: Drawn["data"] = [xs];
  const lines: PlotLine[] = [];
  const readable = new Map<string, (number | null)[]>();
  for (const [place, line] of present.entries()) {
    const raw = (columns[place] ?? []).map((value) => (log && value !== null && value <= 0 ? null : value));
    const count = line.series?.steps.length ?? 0;
    const colour = colourOf(place);
    const isSmoothed = smoothing > 0 && count > SPARSE;
    readable.set(line.label, isSmoothed ? smoothColumn(raw, smoothing) : raw);
    if (isSmoothed) {
      data.push(raw);
      lines.push({ label: line.label, colour, faint: true });
    }
    data.push(readable.get(line.label) ?? raw);
    lines.push({ label: line.label, colour, dots: count <= SPARSE });
  }
  return { data, lines, readable };
}

function smoothColumn(column: readonly (number | null)[], weight: number): (number | null)[] {
  const smoothed = smooth(column.filter((value) => value !== null), weight);
  let next = 0;
  return column.map((value) => (value === null ? null : (smoothed[next++] ?? null)));
}

/** The value at the cursor, or before it where the series has none there; the last without a cursor. */
function readOut(column: readonly (number | null)[] | undefined, cursor: number | null): number | null {
  if (column === undefined) return null;
  for (let place = Math.min(cursor ?? column.length - 1, column.length - 1); place >= 0; place--) {
    const value = column[place];
    if (value !== null && value !== undefined) return value;
  }
  return null;
}

function describe(chart: ChartSpec, present: readonly DrawnLine[]): string {
  const parts = present.map((line) => `${line.label} ${withUnit(line.series?.values[0], chart.unit)} to ${withUnit(line.series?.values.at(-1), chart.unit)}`);
  return `${chart.title}: ${parts.join("; ")}`;
}

function stepLabel(value: number): string {
  return number(Math.round(value * 10) / 10);
}

function clockLabel(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const tail = `${String(minutes).padStart(hours > 0 ? 2 : 1, "0")}:${String(rest).padStart(2, "0")}`;
  return hours > 0 ? `${hours}:${tail}` : tail;
}
