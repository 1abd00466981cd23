/** Format numbers, units, durations and times for display. */

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;

/** Up to four significant digits; very small and very large values in scientific notation. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return value.toExponential(1);
  if (size >= 1e4) return compact.format(value);
  return String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** A fraction as a percentage. */
export function percent(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : `${(value * 100).toFixed(1)} %`;
}

/** Bytes in the largest binary unit below the value. */
export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, value < 1 ? 0 : Math.floor(Math.log2(value) / 10));
  const scaled = value / 1024 ** power;
  return `${power === 0 ? scaled : scaled.toFixed(scaled < 10 ? 1 : 0)} ${units[power]}`;
}

/** Seconds as "850 ms", "12 s", "3 min 20 s" or "2 h 5 min". */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < MINUTE) return `${whole} s`;
  if (whole < HOUR) return pair(whole, MINUTE, "min", 1, "s");
  if (whole < DAY) return pair(whole, HOUR, "h", MINUTE, "min");
  return pair(whole, DAY, "d", HOUR, "h");
}

function pair(seconds: number, large: number, largeName: string, small: number, smallName: string): string {
  const rest = Math.floor((seconds % large) / small);
  return `${Math.floor(seconds / large)} ${largeName}${rest > 0 ? ` ${rest} ${smallName}` : ""}`;
}

/** A Unix time relative to now: "5 min ago" or "in 5 min". */
export function relative(time: number, now: number): string {
  const seconds = Math.round(now - time);
  if (Math.abs(seconds) < 5) return "now";
  const text = duration(Math.abs(seconds)).split(" ").slice(0, 2).join(" ");
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

/** Date and time of a Unix time in the local time zone. */
export function absolute(time: number): string {
  return new Date(time * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** "low_confidence_dynamic" as "low confidence dynamic". */
export function humanize(name: string): string {
  return name.replaceAll("_", " ");
}

/** The last part of a path. */
export function baseName(path: string): string {
  return path.replace(/\/+$/, "").split("/").at(-1) ?? path;
}

/** First eight characters of a hash, or of an id without its prefix. */
export function short(value: string): string {
  return value.replace(/^(job|ckpt|grp|traj|model|file|evt|att|key)_/, "").slice(0, 8);
}
