/** The full job spec. */
import type { Job } from "../../api/types";
import { CodeBlock, Digest } from "../../ui/parts";

export function SpecTab({ job }: { job: Job }) {
  return (
    <div className="stack">
      <p className="muted small">Full spec (defaults included). SHA-256: <Digest value={job.spec_hash} length={16} /></p>
      <CodeBlock label="Job spec" text={JSON.stringify(job.spec, null, 2)} />
    </div>
  );
}
