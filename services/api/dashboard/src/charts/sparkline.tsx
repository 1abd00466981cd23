/** A small inline chart. */
import { withUnit } from "./units";

interface Props {
  values: readonly number[];
  label: string;
  /** Range of the axis; the range of the values if omitted. */
  domain?: [number, number];
  width?: number;
  height?: number;
}

export function Sparkline({ values, label, domain, width = 96, height = 24 }: Props) {
  const last = values.at(-1);
  const [low, high] = domain ?? [Math.min(...values), Math.max(...values)];
  const span = high - low || 1;
  const points = values.map((value, place) => {
    const x = values.length === 1 ? width - 2 : 1 + (place / (values.length - 1)) * (width - 4);
    return `${x.toFixed(1)},${(height - 3 - ((value - low) / span) * (height - 6)).toFixed(1)}`;
  });
  return (
    <svg width={width} height={height} role="img" aria-label={last === undefined ? `${label}: no values yet` : `${label}: ${withUnit(last, "fraction")}`}>
      <line x1={0} x2={width} y1={height - 2.5} y2={height - 2.5} stroke="var(--line)" />
      {points.length > 1 && <polyline points={points.join(" ")} fill="none" stroke="var(--accent)" strokeWidth={1.5} strokeLinejoin="round" />}
      {points.length > 0 && <circle cx={points.at(-1)?.split(",")[0]} cy={points.at(-1)?.split(",")[1]} r={2} fill="var(--accent)" />}
    </svg>
  );
}
