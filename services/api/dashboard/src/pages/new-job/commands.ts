/** Shell commands that submit a spec. */
import type { Spec } from "./spec-fields";

/** curl command; with `needsKey` it sends the API key in DIRL_API_KEY. */
export function curlCommand(origin: string, spec: Spec, needsKey: boolean): string {
  const key = needsKey ? `\n  -H "Authorization: Bearer $DIRL_API_KEY" \\` : "";
  return `curl -s ${origin}/v1/jobs \\${key}\n  -H 'Content-Type: application/json' \\\n  -d ${quoteForShell(JSON.stringify(spec, null, 2))}`;
}

/** Commands that write the spec to a file and submit it with the CLI. */
export function cliCommand(spec: Spec): string {
  return `cat > job.json <<'SPEC'\n${JSON.stringify(spec, null, 2)}\nSPEC\ndirl jobs submit job.json --watch`;
}

/** Quote any text for a POSIX shell. */
export function quoteForShell(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
