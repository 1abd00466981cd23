/** Metric series in memory, downsampled so that their size is bounded and spikes are kept. */

export interface Series {
  /** Ascending. */
  steps: number[];
  values: number[];
}

/** Points per series: minimum and maximum of each horizontal pixel of a chart. */
export const POINTS = 800;
/** A growing series is downsampled again at this size. */
const MAX_POINTS = 1200;

/** Series by metric, extended by events. */
export class SeriesStore {
  private readonly series = new Map<string, Series>();
  /** Incremented with every change. */
  version = 0;

  get(name: string): Series | undefined {
    return this.series.get(name);
  }

  names(): string[] {
    return [...this.series.keys()].sort();
  }

  /** Replace a series. */
  set(name: string, series: Series): void {
    this.series.set(name, series);
    this.version += 1;
  }

  /** Append the values of a step. A step that a new attempt repeats removes the old values from that step on. */
  append(step: number, values: Record<string, number | null>): void {
    for (const [name, value] of Object.entries(values)) {
      if (value !== null) this.appendOne(name, step, value);
    }
    this.version += 1;
  }

  private appendOne(name: string, step: number, value: number): void {
    const series = this.series.get(name) ?? { steps: [], values: [] };
    while (series.steps.length > 0 && (series.steps.at(-1) ?? 0) >= step) {
      series.steps.pop();
      series.values.pop();
    }
    series.steps.push(step);
    series.values.push(value);
    this.series.set(name, series.steps.length > MAX_POINTS ? thin(series, POINTS) : series);
  }
}

/** Downsample to at most `limit` points: minimum and maximum of each bucket, and always the first and the last. */
export function thin(series: Series, limit: number): Series {
  const count = series.steps.length;
  if (count <= limit) return series;
  const kept = new Set<number>([0, count - 1]);
  const buckets = Math.max(1, Math.floor((limit - 2) / 2));
  for (let index = 0; index < buckets; index++) {
    const from = 1 + Math.floor(((count - 2) * index) / buckets);
    const to = 1 + Math.floor(((count - 2) * (index + 1)) / buckets);
    if (to > from) for (const place of extremes(series.values, from, to)) kept.add(place);
  }
  const places = [...kept].sort((a, b) => a - b);
  return { steps: places.map((place) => series.steps[place] ?? 0), values: places.map((place) => series.values[place] ?? 0) };
}

function extremes(values: number[], from: number, to: number): [number, number] {
  let low = from;
  let high = from;
  for (let place = from + 1; place < to; place++) {
    if ((values[place] ?? 0) < (values[low] ?? 0)) low = place;
    if ((values[place] ?? 0) > (values[high] ?? 0)) high = place;
  }
  return [low, high];
}

/** Exponential moving average with bias correction; `weight` in [0, 1) is the weight of the past. */
export function smooth(values: readonly number[], weight: number): number[] {
  if (weight === 0) return [...values];
  let mean = 0;
  let total = 0;
  return values.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return mean / total;
  });
}

/** Values of several series over the union of their steps; null for missing values. */
export function align(series: readonly Series[]): { steps: number[]; columns: (number | null)[][] } {
  const steps = [...new Set(series.flatMap((item) => item.steps))].sort((a, b) => a - b);
  const columns = series.map((item) => {
    const byStep = new Map(item.steps.map((step, place) => [step, item.values[place] ?? null]));
    return steps.map((step) => byStep.get(step) ?? null);
  });
  return { steps, columns };
}
