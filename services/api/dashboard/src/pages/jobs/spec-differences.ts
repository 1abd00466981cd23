/** Differences between job specs. */

export interface Difference {
  /** Dotted path of the key. */
  path: string;
  /** JSON values in the order of the specs. */
  values: string[];
}

/** Leaves whose values are not equal in all specs. */
export function findDifferences(specs: readonly Record<string, unknown>[]): Difference[] {
  const leaves = specs.map((spec) => new Map(flatten(spec, "")));
  const paths = [...new Set(leaves.flatMap((map) => [...map.keys()]))];
  return paths
    .map((path) => ({ path, values: leaves.map((map) => map.get(path) ?? "–") }))
    .filter((row) => new Set(row.values).size > 1);
}

function flatten(value: unknown, path: string): [string, string][] {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return [[path, JSON.stringify(value)]];
  return Object.entries(value).flatMap(([key, item]) => flatten(item, path === "" ? key : `${path}.${key}`));
}
