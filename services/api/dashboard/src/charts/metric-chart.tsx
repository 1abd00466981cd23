/** A metric chart with a title and a legend that shows the values at the cursor. */
import { memo, useMemo, useState } from "react";

import { number } from "../format";
import type { ChartSpec } from "./catalogue";
import { type Axis, assignColours, draw, type DrawnLine } from "./drawing";
import { type Marker, type Range, UplotChart } from "./uplot-chart";
import { withUnit, ZERO_BASED } from "./units";

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
  /** Incremented when the series change, because they are mutated in place. */
  version: number;
}

export const MetricChart = memo(function MetricChart({ chart, lines, markers, smoothing, axis, range, onRange, sync, height = 168, version }: Props) {
  const [cursor, setCursor] = useState<number | null>(null);
  const all = useMemo(() => assignColours(lines), [lines]);
  const present = useMemo(() => all.filter((line) => (line.series?.steps.length ?? 0) > 0), [all, version]); // eslint-disable-line react-hooks/exhaustive-deps
  const drawn = useMemo(() => draw(present, smoothing, axis, chart.log), [present, smoothing, axis, chart.log]);
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
          {all.map((line) => (
            <li key={line.label} title={line.label}>
              <i style={{ background: `var(${line.colour})` }} />
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
          log={chart.log}
          zeroBased={ZERO_BASED.includes(chart.unit) || present.every((line) => (line.series?.values ?? []).every((value) => value >= 0))}
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

/** The last value at or before the cursor; the last of the series without a cursor. */
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
