/** Chart of accuracy vs. tokens per denoising step, with the Pareto frontier; one point per evaluation. */
import { number, percent } from "../../format";
import { curvesOf, type Family, type FrontierPoint } from "./frontier-points";

const WIDTH = 860;
const HEIGHT = 260;
const LEFT = 48;
const BOTTOM = 34;
const TOP = 12;
const RIGHT = 110;
const TICKS = 5;

export function Frontier({ points }: { points: readonly FrontierPoint[] }) {
  if (points.length === 0) return null;
  const [lowX, highX] = padRange(Math.min(...points.map((point) => point.speed)), Math.max(...points.map((point) => point.speed)), 1);
  const [lowY, highY] = padRange(Math.min(...points.map((point) => point.low)), Math.max(...points.map((point) => point.high)), 0, 1);
  const x = (value: number) => LEFT + ((value - lowX) / (highX - lowX)) * (WIDTH - LEFT - RIGHT);
  const y = (value: number) => HEIGHT - BOTTOM - ((value - lowY) / (highY - lowY)) * (HEIGHT - BOTTOM - TOP);
  const best = points.filter((point) => point.isBest).sort((a, b) => a.speed - b.speed);
  const label = `Accuracy vs. tokens per denoising step. ${points.map((point) => `${point.label}: ${percent(point.accuracy)} at ${number(point.speed)}`).join("; ")}`;
  return (
    <figure className="card">
      <h2>Accuracy vs. speed</h2>
      <p className="muted small">One point per evaluation, with its 95 % confidence interval. Line: Pareto frontier.</p>
      <ul className="row small muted frontier-key">
        {FAMILIES.filter(({ family }) => points.some((point) => point.family === family)).map(({ family, text }) => (
          <li key={family}><svg viewBox="-8 -8 16 16" className="frontier" aria-hidden="true"><g className="point"><Mark family={family} x={0} y={0} /></g></svg> {text}</li>
        ))}
      </ul>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} className="frontier" role="img" aria-label={label}>
        {ticks(lowY, highY).map((tick) => (
          <g key={tick}>
            <line x1={LEFT} x2={WIDTH - RIGHT} y1={y(tick)} y2={y(tick)} className="grid" />
            <text x={LEFT - 8} y={y(tick) + 4} textAnchor="end">{percent(tick).replace(".0", "")}</text>
          </g>
        ))}
        {ticks(lowX, highX).map((tick) => (
          <text key={tick} x={x(tick)} y={HEIGHT - BOTTOM + 16} textAnchor="middle">{number(Number(tick.toFixed(2)))}</text>
        ))}
        <text x={WIDTH - RIGHT} y={HEIGHT - 3} textAnchor="end">tokens per denoising step →</text>
        {curvesOf(points).map((curve) => (
          <polyline key={curve[0]?.id} points={curve.map((point) => `${x(point.speed)},${y(point.accuracy)}`).join(" ")} className="curve" />
        ))}
        {fastestOfEach(points).map((point) => <text key={point.weights} x={x(point.speed) + 22} y={y(point.accuracy) + 4}>{point.weights}</text>)}
        <polyline points={best.map((point) => `${x(point.speed)},${y(point.accuracy)}`).join(" ")} className="best" />
        {points.map((point) => (
          <g key={point.id} className={point.isBest ? "point on-frontier" : "point"}>
            <line x1={x(point.speed)} x2={x(point.speed)} y1={y(point.low)} y2={y(point.high)} />
            <Mark family={point.family} x={x(point.speed)} y={y(point.accuracy)} />
            <text x={x(point.speed) + 8} y={y(point.accuracy) + (point.family === "steps" ? 16 : -6)}>{point.setting}</text>
            <title>{`${point.label}\n${percent(point.accuracy)} (${percent(point.low)} to ${percent(point.high)}) at ${number(point.speed)} tokens per step`}</title>
          </g>
        ))}
      </svg>
    </figure>
  );
}

const FAMILIES: readonly { family: Family; text: string }[] = [
  { family: "threshold", text: "confidence threshold" },
  { family: "steps", text: "denoising steps per block" },
  { family: "other", text: "other strategy" },
];
const RADIUS = 4.5;

function Mark({ family, x, y }: { family: Family; x: number; y: number }) {
  if (family === "steps") return <rect x={x - RADIUS} y={y - RADIUS} width={RADIUS * 2} height={RADIUS * 2} />;
  if (family === "other") return <path d={`M${x},${y - RADIUS - 1.5}l6,6l-6,6l-6,-6z`} />;
  return <circle cx={x} cy={y} r={RADIUS} />;
}

/** The fastest point of each weight version, where its label is drawn. */
function fastestOfEach(points: readonly FrontierPoint[]): FrontierPoint[] {
  const fastest = new Map<string, FrontierPoint>();
  for (const point of points) if (point.speed > (fastest.get(point.weights)?.speed ?? -Infinity)) fastest.set(point.weights, point);
  return [...fastest.values()];
}

/** Widen the range by a margin, clamped to [least, most]. */
function padRange(low: number, high: number, least: number, most = Infinity): [number, number] {
  const margin = Math.max((high - low) * 0.15, 0.05);
  return [Math.max(least, low - margin), Math.min(most, high + margin)];
}

/** About TICKS round values within the range. */
function ticks(low: number, high: number): number[] {
  const rough = (high - low) / TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, place) => Number(((first + place) * step).toFixed(6)));
}
