/** Buttons for the actions that the job's state and this installation allow. */
import { type FormEvent, useState } from "react";

import { useCapabilities } from "../../api/capabilities";
import { callPath, type ApiError } from "../../api/client";
import type { Job, JobState } from "../../api/types";
import { asError } from "../../api/use-query";
import { Link, navigate } from "../../router";
import { Dialog, ErrorNote } from "../../ui/parts";

interface Action {
  name: "pause" | "resume" | "rerun" | "checkpoints" | "cancel";
  label: string;
  states: readonly JobState[];
  /** Text of the confirmation dialog; actions without one run at once. */
  confirm?: string;
}

const ACTIONS: readonly Action[] = [
  { name: "pause", label: "Pause", states: ["running"] },
  { name: "resume", label: "Resume", states: ["paused"] },
  { name: "rerun", label: "Retry", states: ["failed", "cancelled"] },
  { name: "checkpoints", label: "Checkpoint now", states: ["running"] },
  {
    name: "cancel", label: "Cancel", states: ["queued", "provisioning", "running", "pausing", "paused"],
    confirm: "The last checkpoint is kept.",
  },
];

export function JobActions({ job, onDone }: { job: Job; onDone: () => void }) {
  const { offers } = useCapabilities();
  const [confirming, setConfirming] = useState<Action>();
  const [isEditing, setEditing] = useState(false);
  const [busy, setBusy] = useState<string>();
  const [error, setError] = useState<ApiError>();
  const run = async (action: Action) => {
    setConfirming(undefined);
    setBusy(action.name);
    setError(undefined);
    try {
      await callPath<Job>("POST", `/v1/jobs/${job.id}/${action.name}`);
    } catch (caught) {
      setError(asError(caught));
    }
    setBusy(undefined);
    onDone();
  };
  const possible = ACTIONS.filter((action) => action.states.includes(job.state) && offers("post", `/v1/jobs/{job_id}/${action.name}`));
  const canEdit = offers("patch", "/v1/jobs/{job_id}") && (job.state === "running" || job.state === "paused");
  return (
    <div className="stack tight actions">
      <div className="row">
        {possible.map((action) => (
          <button key={action.name} type="button" className={`button ${action.name === "cancel" ? "danger" : ""}`} disabled={busy !== undefined} onClick={() => (action.confirm ? setConfirming(action) : void run(action))}>
            {action.label}
          </button>
        ))}
        {canEdit && <button type="button" className="button" onClick={() => setEditing(true)}>Edit settings</button>}
        {job.attempt > 0 && <Link to={`/jobs/${job.id}/checkpoints`} className="button" title="Fork, rewind or export a checkpoint">Checkpoints</Link>}
        <button type="button" className="button" onClick={() => navigate(`/new?from=${job.id}`)} title="Create a job that starts from this spec">
          Use as template
        </button>
      </div>
      {error && <ErrorNote error={error} />}
      {confirming && (
        <Dialog title={`${confirming.label} this job?`} onClose={() => setConfirming(undefined)}>
          <p>{confirming.confirm}</p>
          <div className="row">
            <button type="button" className="button primary" onClick={() => void run(confirming)}>{confirming.label} job</button>
            <button type="button" className="button" onClick={() => setConfirming(undefined)}>Keep running</button>
          </div>
        </Dialog>
      )}
      {isEditing && <EditSettings job={job} onClose={() => setEditing(false)} onDone={onDone} />}
    </div>
  );
}

/** Dialog that changes one parameter of a running job; the API validates which ones can change. */
function EditSettings({ job, onClose, onDone }: { job: Job; onClose: () => void; onDone: () => void }) {
  const [key, setKey] = useState("rl.optim.lr");
  const [value, setValue] = useState("");
  const [error, setError] = useState<ApiError>();
  const send = async (event: FormEvent) => {
    event.preventDefault();
    try {
      await callPath("PATCH", `/v1/jobs/${job.id}`, { hyperparameters: { [key]: parseValue(value) } });
      onDone();
      onClose();
    } catch (caught) {
      setError(asError(caught));
    }
  };
  return (
    <Dialog title="Update running job" onClose={onClose}>
      <form className="stack" onSubmit={(event) => void send(event)}>
        <p className="muted">The learner applies the change before its next step and records it as a new revision of the spec.</p>
        <div className="field">
          <label htmlFor="settings-key">Parameter</label>
          <input id="settings-key" className="mono" value={key} onChange={(event) => setKey(event.target.value)} />
        </div>
        <div className="field">
          <label htmlFor="settings-value">New value</label>
          <input id="settings-value" className="mono" value={value} placeholder="1e-5" onChange={(event) => setValue(event.target.value)} />
        </div>
        {error && <ErrorNote error={error} />}
        <div className="row">
          <button type="submit" className="button primary" disabled={value.trim() === ""}>Apply</button>
          <button type="button" className="button" onClick={onClose}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}

/** Parse a number, true, false or null; keep any other text as a string. */
function parseValue(text: string): unknown {
  const number = Number(text);
  if (text.trim() !== "" && Number.isFinite(number)) return number;
  return { true: true, false: false, null: null }[text.trim()] ?? text;
}
