/** Convert the series of a chart to uPlot columns and lines. */
import { align, type Series, smooth } from "./series";
import type { PlotLine } from "./uplot-chart";

export interface Axis {
  kind: "step" | "time";
  /** Seconds since the job started, by step; used by `time` only. */
  secondsOf: (step: number) => number;
}

export interface DrawnLine {
  label: string;
  series: Series | undefined;
}

export interface ColouredLine extends DrawnLine {
  /** Name of a CSS variable, e.g. "--series-1". */
  colour: string;
}

interface Drawn {
  data: [number[], ...(number | null)[][]];
  lines: PlotLine[];
  /** Values that the legend shows, by label. */
  readable: Map<string, (number | null)[]>;
}

/** Series with at most this many values are drawn with dots and not smoothed. */
const SPARSE = 16;
const COLOURS = 7;

/** Assign colours by position, so that a line keeps its colour when others have no values yet. */
export function assignColours(lines: readonly DrawnLine[]): ColouredLine[] {
  return lines.map((line, place) => ({ ...line, colour: `--series-${(place % COLOURS) + 1}` }));
}

/** Columns and lines for the plot; a smoothed line is drawn over its faint raw line. */
export function draw(present: readonly ColouredLine[], smoothing: number, axis: Axis, log: boolean): Drawn {
  const { steps, columns } = align(present.map((line) => line.series ?? { steps: [], values: [] }));
  const xs = axis.kind === "step" ? steps : steps.map((step) => axis.secondsOf(step));
  const data: Drawn["data"] = [xs];
  const lines: PlotLine[] = [];
  const readable = new Map<string, (number | null)[]>();
  for (const [place, { label, series, colour }] of present.entries()) {
    const raw = (columns[place] ?? []).map((value) => (log && value !== null && value <= 0 ? null : value));
    const count = series?.steps.length ?? 0;
    const isSmoothed = smoothing > 0 && count > SPARSE;
    const shown = isSmoothed ? smoothColumn(raw, smoothing) : raw;
    readable.set(label, shown);
    if (isSmoothed) {
      data.push(raw);
      lines.push({ label, colour, faint: true });
    }
    data.push(shown);
    lines.push({ label, colour, dots: count <= SPARSE });
  }
  return { data, lines, readable };
}

function smoothColumn(column: readonly (number | null)[], weight: number): (number | null)[] {
  const smoothed = smooth(column.filter((value) => value !== null), weight);
  let next = 0;
  return column.map((value) => (value === null ? null : (smoothed[next++] ?? null)));
}
