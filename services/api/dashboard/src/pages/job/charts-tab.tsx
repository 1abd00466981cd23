/** Charts of the job's metrics: twelve by default, any other on request. */
import { useDeferredValue, useEffect, useMemo, useState } from "react";

import { unwrap, api } from "../../api/client";
import type { Job } from "../../api/types";
import { useQuery } from "../../api/use-query";
import type { Axis } from "../../charts/drawing";
import { CHARTS, type ChartSpec, DEFAULT_METRICS, GROUPS, MetricChart, toChart } from "../../charts/metric-chart";
import { POINTS } from "../../charts/series";
import { SmoothingSlider } from "../../charts/smoothing-slider";
import type { Marker, Range } from "../../charts/uplot-chart";
import { Segments } from "../../ui/parts";
import { useMarkers } from "./use-markers";
import { useStepTimes } from "./use-step-times";
import type { LiveJob } from "./use-live-job";

const STAGES: Record<string, readonly string[]> = { sft: ["sft"], rl: ["rl"], eval: ["eval"], pipeline: ["sft", "rl", "eval"] };

export function ChartsTab({ live, job }: { live: LiveJob; job: Job }) {
  const [smoothing, setSmoothing] = useState(0);
  const [kind, setKind] = useState<Axis["kind"]>("step");
  const [range, setRange] = useState<Range>(null);
  const [added, setAdded] = useState<readonly string[]>([]);
  const markers = useMarkers(job, live.updates);
  const times = useStepTimes(job, kind === "time", live.updates["progress"] ?? 0);
  const axis = useMemo<Axis>(() => ({ kind, secondsOf: times }), [kind, times]);
  const stages = STAGES[job.method] ?? ["sft", "rl", "eval"];
  const charts = CHARTS.filter((chart) => chart.stages.some((stage) => stages.includes(stage)));
  const changeAxis = (next: Axis["kind"]) => {
    setRange(null);
    setKind(next);
  };
  const shared = { live, markers, smoothing: useDeferredValue(smoothing), axis, range, onRange: setRange };
  return (
    <div className="stack">
      <div className="row apart">
        <p className="muted small">Drag to zoom, double-click to reset. <MarkerKey /></p>
        <div className="row">
          {range && <button type="button" className="button small" onClick={() => setRange(null)}>Reset zoom</button>}
          <Segments label="Axis" value={kind} onChange={changeAxis} options={[{ value: "step", label: "Step" }, { value: "time", label: "Wall time" }]} />
          <SmoothingSlider value={smoothing} onChange={setSmoothing} />
        </div>
      </div>
      {GROUPS.map((group) => (
        <section key={group} className="chart-group" aria-label={group}>
          <h2>{group}</h2>
          <div className="charts">
            {charts.filter((chart) => chart.group === group).map((chart) => <LiveChart key={chart.id} chart={chart} {...shared} />)}
          </div>
        </section>
      ))}
      <MoreCharts job={job} added={added} onChange={setAdded} />
      {added.length > 0 && <div className="charts">{added.map((metric) => <AddedChart key={metric} job={job} metric={metric} {...shared} />)}</div>}
    </div>
  );
}

function MarkerKey() {
  return (
    <span className="marker-key">
      <i style={{ background: "var(--line-strong)" }} /> checkpoint <i style={{ background: "var(--series-3)" }} /> evaluation <i style={{ background: "var(--muted)" }} /> stage <i style={{ background: "var(--bad)" }} /> restart <i style={{ background: "var(--warn)" }} /> settings changed
    </span>
  );
}

interface LiveChartProps {
  chart: ChartSpec;
  live: LiveJob;
  markers: readonly Marker[];
  smoothing: number;
  axis: Axis;
  range: Range;
  onRange: (range: Range) => void;
}

function LiveChart({ chart, live, ...rest }: LiveChartProps) {
  const version = live.version;
  const lines = useMemo(
    () => chart.lines.map((line) => ({ label: line.label, series: live.series.get(line.metric) })),
    [chart, live.series, version], // eslint-disable-line react-hooks/exhaustive-deps
  );
  return <MetricChart chart={chart} lines={lines} sync="job" version={version} {...rest} />;
}

/** A chart of a metric that is not loaded with the page: its history is fetched when the chart is added. */
function AddedChart({ job, metric, live, ...rest }: { job: Job; metric: string } & Omit<LiveChartProps, "chart">) {
  const { data } = useQuery(`metric ${job.id} ${metric}`, (signal) =>
    unwrap(api.GET("/v1/jobs/{job_id}/metrics", { params: { path: { job_id: job.id }, query: { names: [metric], downsample: POINTS } }, signal })));
  const chart = useMemo(() => toChart(metric), [metric]);
  useEffect(() => {
    const history = data?.data[0];
    if (history) live.series.set(metric, { steps: [...history.steps], values: [...history.values] });
  }, [data, live.series, metric]);
  return <LiveChart key={data === undefined ? "empty" : "read"} chart={chart} live={live} {...rest} />;
}

function MoreCharts({ job, added, onChange }: { job: Job; added: readonly string[]; onChange: (metrics: readonly string[]) => void }) {
  const others = Object.keys(job.latest_metrics).filter((name) => !DEFAULT_METRICS.includes(name) && !added.includes(name)).sort();
  return (
    <div className="row">
      <select aria-label="Add chart" value="" onChange={(event) => onChange([...added, event.target.value])}>
        <option value="">Add chart …</option>
        {others.map((name) => <option key={name} value={name}>{name}</option>)}
      </select>
      {added.length > 0 && <button type="button" className="button" onClick={() => onChange([])}>Remove added charts</button>}
    </div>
  );
}
