/** From the series of a chart to what is drawn: columns over one axis, smoothed, in the colours of the legend. */
import { align, type Series, smooth } from "./series";
import type { PlotLine } from "./uplot-chart";

export interface Axis {
  kind: "step" | "time";
  /** Seconds since the job began, by step; only for `time`. */
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
  /** What the legend reads, by label. */
  readable: Map<string, (number | null)[]>;
}

/** Up to so many values are shown as dots, and never smoothed: there is nothing to see through. */
const SPARSE = 16;
const COLOURS = 7;

/** Each line with the colour of its place, whether or not it and those before it have values yet. */
export function coloured(lines: readonly DrawnLine[]): ColouredLine[] {
  return lines.map((line, place) => ({ ...line, colour: `--series-${(place % COLOURS) + 1}` }));
}

/** Columns and lines for the plot; a smoothed line lies over its faint raw one. */
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
