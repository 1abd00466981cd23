/** Format values with their unit. */
import { duration, number } from "../format";
import type { Unit } from "./catalogue";

/** A value with its unit. */
export function withUnit(value: number | null | undefined, unit: Unit): string {
  if (value === null || value === undefined) return "–";
  if (unit === "share") return `${number(Number((value * 100).toFixed(1)))} %`;
  if (unit === "seconds") return duration(value);
  if (unit === "gib") return `${number(value)} GiB`;
  if (unit === "per second") return `${number(value)}/s`;
  return number(value);
}
