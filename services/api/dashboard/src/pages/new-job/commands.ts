/** The same submission as commands. */
import type { Spec } from "./spec-fields";

/** A request that anybody can send. */
export function curlCommand(origin: string, spec: Spec): string {
  return `curl -s ${origin}/v1/jobs \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(spec, null, 2))}`;
}

/** The spec as a file, and the command that submits it. */
export function cliCommand(spec: Spec): string {
  return `cat > job.json <<'SPEC'\n${JSON.stringify(spec, null, 2)}\nSPEC\ndirl jobs submit job.json --watch`;
}

/** For a shell, whatever the text holds. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
