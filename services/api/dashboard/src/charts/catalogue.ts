/** Metrics and their default charts, generated from services/common/job_metrics.py. */
import type { Job } from "../api/types";
import registry from "../generated/metrics.json";

export type MetricName = keyof typeof registry.metrics;
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

/** The latest value of a metric of the job; the type admits registered names only. */
export function latestMetric(job: Job, metric: MetricName): number | undefined {
  return job.latest_metrics[metric];
}
