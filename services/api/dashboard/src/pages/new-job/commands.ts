/** The same submission as commands. */
import type { Spec } from "./spec-fields";

/** A request that anybody can send; where the installation asks for a key, with the one that DIRL_API_KEY holds. */
export function curlCommand(origin: string, spec: Spec, needsKey: boolean): string {
  const key = needsKey ? `\n  -H "Authorization: Bearer $DIRL_API_KEY" \\` : "";
  return `curl -s ${origin}/v1/jobs \\${key}\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(spec, null, 2))}`;
}

/** The spec as a file, and the command that submits it. */
export function cliCommand(spec: Spec): string {
  return `cat > job.json <<'SPEC'\n${JSON.stringify(spec, null, 2)}\nSPEC\ndirl jobs submit job.json --watch`;
}

/** For a shell, whatever the text holds. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
