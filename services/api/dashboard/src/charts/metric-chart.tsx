/** A metric chart with a title and a legend that shows the values at the cursor, and the default charts (from services/common/job_metrics.py). */
import { memo, useMemo, useState } from "react";

import type { MetricName } from "../api/types";
import { number } from "../format";
import registry from "../generated/metrics.json";
import { type Axis, assignColours, draw, type DrawnLine } from "./drawing";
import { type Marker, type Range, UplotChart } from "./uplot-chart";
import { withUnit, ZERO_BASED } from "./units";

export type Unit = "fraction" | "seconds" | "count" | "tokens" | "tokens/s" | "nats" | "bytes" | "GiB" | "number";

export interface Line {
  metric: string;
  label: string;
}

export interface ChartSpec {
  id: string;
  group: string;
  title: string;
  about: string;
  unit: Unit;
  lines: readonly Line[];
  log: boolean;
  /** Stages that report the metrics. */
  stages: readonly string[];
}

interface Description {
  unit: Unit;
  meaning: string;
}

const METRICS = new Map(Object.entries(registry.metrics as Record<MetricName, Description>));
const PATTERNS = registry.patterns.map((pattern) => ({ ...(pattern as Description), regex: new RegExp(`^${pattern.regex}$`) }));

export const GROUPS: readonly string[] = registry.groups;
export const CHARTS = registry.charts as readonly ChartSpec[];
/** Every metric of the default charts. */
export const DEFAULT_METRICS: readonly string[] = CHARTS.flatMap((chart) => chart.lines.map((line) => line.metric));

/** A chart of one metric that is not in the default charts. */
export function toChart(metric: string): ChartSpec {
  const found = METRICS.get(metric as MetricName) ?? PATTERNS.find((pattern) => pattern.regex.test(metric));
  const label = metric.split("/").at(-1) ?? metric;
  return { id: metric, group: "", title: metric, about: found?.meaning ?? "", unit: found?.unit ?? "number", lines: [{ metric, label }], log: false, stages: [] };
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
