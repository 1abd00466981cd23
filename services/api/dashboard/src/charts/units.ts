/** Format values with their unit. */
import { bytes, duration, number } from "../format";
import type { Unit } from "./metric-chart";

/** Units whose axis starts at 0; values of the others may be negative. */
export const ZERO_BASED: readonly Unit[] = ["fraction", "seconds", "count", "tokens", "tokens/s", "bytes", "GiB"];

/** A value with its unit. */
export function withUnit(value: number | null | undefined, unit: Unit): string {
  if (value === null || value === undefined) return "–";
  if (unit === "fraction") return `${number(Number((value * 100).toFixed(1)))} %`;
  if (unit === "seconds") return duration(value);
  if (unit === "bytes") return bytes(value);
  if (unit === "GiB") return `${number(value)} GiB`;
  if (unit === "tokens/s") return `${number(value)}/s`;
  return number(value);
}
