/** Metric series in memory: bounded however long a job runs, thinned so that no spike is lost. */

export interface Series {
  /** Ascending. */
  steps: number[];
  values: number[];
}

/** The least and the greatest value for each of a chart's pixels across. */
export const POINTS = 800;
/** So many before a growing series is thinned again. */
const MOST = 1200;

/** Series by metric, growing as events come. */
export class SeriesStore {
  private readonly series = new Map<string, Series>();
  /** Grows with every change, so that readers know. */
  version = 0;

  get(name: string): Series | undefined {
    return this.series.get(name);
  }

  names(): string[] {
    return [...this.series.keys()].sort();
  }

  /** Put a whole series in place. */
  set(name: string, series: Series): void {
    this.series.set(name, series);
    this.version += 1;
  }

  /** Add one step's values; a step that a new attempt repeats undoes what lay at and after it. */
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
    this.series.set(name, series.steps.length > MOST ? thin(series, POINTS) : series);
  }
}

/** At most `limit` points: the least and the greatest of every stretch, the first and the last always. */
export function thin(series: Series, limit: number): Series {
  const count = series.steps.length;
  if (count <= limit) return series;
  const kept = new Set<number>([0, count - 1]);
  const stretches = Math.max(1, Math.floor((limit - 2) / 2));
  for (let index = 0; index < stretches; index++) {
    const from = 1 + Math.floor(((count - 2) * index) / stretches);
    const to = 1 + Math.floor(((count - 2) * (index + 1)) / stretches);
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

/** Exponential moving average; `weight` in [0, 1) is that of the past. Unbiased at the start. */
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

/** Values of several series over the union of their steps; null where a series has none. */
export function align(series: readonly Series[]): { steps: number[]; columns: (number | null)[][] } {
  const steps = [...new Set(series.flatMap((item) => item.steps))].sort((a, b) => a - b);
  const columns = series.map((item) => {
    const byStep = new Map(item.steps.map((step, place) => [step, item.values[place] ?? null]));
    return steps.map((step) => byStep.get(step) ?? null);
  });
  return { steps, columns };
}
