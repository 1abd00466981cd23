/** Form generated from the JSON schema of the job spec; empty fields use the defaults. */
import { useId } from "react";

import { InlineCode } from "../../ui/parts";
import { FileField } from "./file-field";
import { type Field, appliesTo, methodOf, parseInput, type Section, showInput, type Spec, valueAt, withValue } from "./spec-fields";

interface Props {
  sections: readonly Section[];
  spec: Spec;
  problems: ReadonlyMap<string, string>;
  models: readonly { id: string; name: string }[];
  onChange: (spec: Spec) => void;
}

const FILES = ["training_file", "validation_file"];

export function SchemaForm({ sections, spec, problems, models, onChange }: Props) {
  const method = methodOf(spec);
  const [job, ...others] = sections;
  if (job === undefined) return null;
  const set = (field: Field, text: string) => onChange(withValue(spec, field.path, parseInput(field, text)));
  const draw = (field: Field) => (
    <FieldInput key={field.path} field={field} text={field.path === "method" ? method : showInput(valueAt(spec, field.path))} problem={problems.get(field.path)} models={models} onText={(text) => set(field, text)} />
  );
  return (
    <div className="stack tight">
      <section className="card" aria-label="Job"><div className="fields">{job.fields.map(draw)}</div></section>
      {others.filter((section) => appliesTo(section, method) && section.fields.length > 0).map((section) => {
        const entered = section.fields.filter((field) => valueAt(spec, field.path) !== undefined).length;
        const hasProblem = section.fields.some((field) => problems.has(field.path));
        return (
          <details key={section.path} className="card section" open={hasProblem || entered > 0}>
            <summary><code>{section.path}</code> <span className="muted small"><InlineCode text={section.about} /></span>{entered > 0 && <span className="badge plain">{entered} set</span>}</summary>
            <div className="fields">{section.fields.map(draw)}</div>
          </details>
        );
      })}
    </div>
  );
}

interface InputProps {
  field: Field;
  text: string;
  problem: string | undefined;
  models: readonly { id: string; name: string }[];
  onText: (text: string) => void;
}

function FieldInput({ field, text, problem, models, onText }: InputProps) {
  const id = useId();
  if (FILES.includes(field.path)) return <FileField label={field.name} hint={field.about || "JSON Lines or Parquet; all rows are validated"} value={text} problem={problem} onChange={onText} />;
  const shared = { id, value: text, "aria-invalid": problem !== undefined, "aria-describedby": `${id}-hint` };
  return (
    <div className="field">
      <label htmlFor={id}>{field.name}{field.isRequired && <span className="muted"> · required</span>}</label>
      {field.kind === "choice" || field.kind === "boolean" ? (
        <select {...shared} onChange={(event) => onText(event.target.value)}>
          {!field.isRequired && <option value="">default{field.placeholder && `: ${field.placeholder}`}</option>}
          {(field.kind === "boolean" ? ["true", "false"] : field.choices).map((choice) => <option key={choice} value={choice}>{choice}</option>)}
        </select>
      ) : (
        <input {...shared} list={field.path === "model" ? `${id}-models` : undefined} className={field.kind === "text" ? "" : "num"} inputMode={field.kind === "integer" ? "numeric" : undefined} placeholder={field.placeholder} onChange={(event) => onText(event.target.value)} />
      )}
      {field.path === "model" && <datalist id={`${id}-models`}>{models.map((model) => <option key={model.id} value={model.id}>{model.name}</option>)}</datalist>}
      <span className="hint" id={`${id}-hint`}><InlineCode text={field.about} /></span>
      {problem && <span className="problem">{problem}</span>}
    </div>
  );
}
