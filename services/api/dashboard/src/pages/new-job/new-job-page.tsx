/** Create a job from an example, another job or a blank spec. */
import { useMemo, useState } from "react";

import { useCapabilities } from "../../api/capabilities";
import { unwrap, api, ApiError, apiKey, callPath } from "../../api/client";
import type { Estimate, Job } from "../../api/types";
import { asError, useQuery } from "../../api/use-query";
import examples from "../../generated/examples.json";
import { navigate, useSearchParam } from "../../router";
import { CodeBlock, ErrorNote, Loading, Segments } from "../../ui/parts";
import { cliCommand, curlCommand } from "./commands";
import { EstimateNote } from "./estimate-note";
import { SchemaForm } from "./schema-form";
import { type Section, sectionsOf, type Spec, withoutDefaults } from "./spec-fields";

type View = "form" | "json";
type Shown = "curl" | "cli" | "json";
const EMPTY: Spec = { model: "", method: "pipeline" };

export default function NewJobPage() {
  const [from] = useSearchParam("from");
  const { data, error } = useQuery(`template ${from ?? ""}`, (signal) => unwrap(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: from ?? "" } }, signal })), { enabled: from !== null });
  if (error) return <ErrorNote error={error} />;
  if (from !== null && data === undefined) return <Loading what="the template" height={400} />;
  return <Editor key={from ?? ""} template={data?.spec as Spec | undefined} />;
}

/** Waits for the schema, which has the defaults to remove from a template. */
function Editor({ template }: { template: Spec | undefined }) {
  const { schemas } = useCapabilities();
  const sections = useMemo(() => (schemas === undefined ? undefined : sectionsOf(schemas)), [schemas]);
  if (sections === undefined) return <Loading what="the schema" height={400} />;
  return <SpecEditor sections={sections} first={template === undefined ? EMPTY : withoutDefaults(template, sections)} />;
}

function SpecEditor({ sections, first }: { sections: readonly Section[]; first: Spec }) {
  const { takes } = useCapabilities();
  const [spec, setSpec] = useState<Spec>(first);
  const [view, setView] = useState<View>("form");
  const [error, setError] = useState<ApiError>();
  const [estimate, setEstimate] = useState<Estimate>();
  const [busy, setBusy] = useState(false);
  const models = useQuery("models", (signal) => unwrap(api.GET("/v1/models", { params: { query: { limit: 100 } }, signal })));
  const problems = useMemo(() => new Map((error?.problems ?? []).map((problem) => [problem.path, problem.message])), [error]);
  const attempt = async (action: () => Promise<void>) => {
    setBusy(true);
    setError(undefined);
    setEstimate(undefined);
    await action().catch((caught: unknown) => setError(asError(caught)));
    setBusy(false);
  };
  const submit = () => attempt(async () => navigate(`/jobs/${(await callPath<Job>("POST", "/v1/jobs", spec)).id}`));
  const check = () => attempt(async () => setEstimate(await callPath<Estimate>("POST", "/v1/jobs?dry_run=true", spec)));
  return (
    <div className="stack">
      <div className="page-head">
        <h1>New job</h1>
        <Segments label="View" value={view} onChange={setView} options={[{ value: "form", label: "Form" }, { value: "json", label: "JSON" }]} />
      </div>
      <Examples onChoose={(chosen) => { setError(undefined); setSpec(chosen); }} />
      <div className="editor">
        <form className="stack tight" onSubmit={(event) => { event.preventDefault(); void submit(); }}>
          {view === "json" ? <JsonEditor key={JSON.stringify(spec).length} spec={spec} onChange={setSpec} /> : (
            <SchemaForm sections={sections} spec={spec} problems={problems} models={models.data?.data ?? []} onChange={setSpec} />
          )}
          {error && <ErrorNote error={error} />}
          {estimate && <EstimateNote estimate={estimate} />}
          <div className="row submit-bar">
            <button type="submit" className="button primary" disabled={busy}>{busy ? "Validating …" : "Submit job"}</button>
            {takes("post", "/v1/jobs", "dry_run") && <button type="button" className="button" disabled={busy} onClick={() => void check()}>Dry run</button>}
            <span className="muted small">The spec, model and data are validated before the job is queued.</span>
          </div>
        </form>
        <Commands spec={spec} />
      </div>
    </div>
  );
}

function Examples({ onChoose }: { onChoose: (spec: Spec) => void }) {
  return (
    <div className="row" role="group" aria-label="Examples">
      <span className="muted small">Start from</span>
      {examples.map((example) => (
        <button key={example.name} type="button" className="button small" title={example.about} onClick={() => onChoose(example.spec as unknown as Spec)}>{example.name}</button>
      ))}
      <button type="button" className="button small" onClick={() => onChoose(EMPTY)}>Blank</button>
    </div>
  );
}

function JsonEditor({ spec, onChange }: { spec: Spec; onChange: (spec: Spec) => void }) {
  const [text, setText] = useState(() => JSON.stringify(spec, null, 2));
  const [problem, setProblem] = useState<string>();
  const keep = () => {
    try {
      onChange(JSON.parse(text) as Spec);
      setProblem(undefined);
    } catch (caught) {
      setProblem(caught instanceof Error ? caught.message : String(caught));
    }
  };
  return (
    <div className="field">
      <label htmlFor="spec-json">Job spec</label>
      <textarea id="spec-json" className="mono" rows={26} spellCheck={false} value={text} onChange={(event) => setText(event.target.value)} onBlur={keep} />
      {problem && <span className="problem">Invalid JSON: {problem}</span>}
    </div>
  );
}

function Commands({ spec }: { spec: Spec }) {
  const [shown, setShown] = useState<Shown>("curl");
  const text = { curl: curlCommand(window.location.origin, spec, apiKey() !== null), cli: cliCommand(spec), json: JSON.stringify(spec, null, 2) }[shown];
  return (
    <aside className="card stack tight commands" aria-label="Equivalent command">
      <div className="row apart">
        <h2>Equivalent command</h2>
        <Segments label="Format" value={shown} onChange={setShown} options={[{ value: "curl", label: "curl" }, { value: "cli", label: "dirl" }, { value: "json", label: "JSON" }]} />
      </div>
      <CodeBlock label={shown} text={text} />
    </aside>
  );
}
