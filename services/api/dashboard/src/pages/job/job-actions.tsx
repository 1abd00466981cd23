/** What can be done with a job in its state, of what this installation offers. */
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
  /** Asked before it is done. */
  confirm?: string;
}

const ACTIONS: readonly Action[] = [
  { name: "pause", label: "Pause", states: ["running"] },
  { name: "resume", label: "Resume", states: ["paused"] },
  { name: "rerun", label: "Run again", states: ["failed", "cancelled"] },
  { name: "checkpoints", label: "Checkpoint now", states: ["running"] },
  {
    name: "cancel", label: "Cancel", states: ["queued", "provisioning", "running", "pausing", "paused"],
    confirm: "Cancel the job for good? Its last checkpoint stays.",
  },
];

export function JobActions({ job, onDone }: { job: Job; onDone: () => void }) {
  const { offers } = useCapabilities();
  const [asked, setAsked] = useState<Action>();
  const [isSteering, setSteering] = useState(false);
  const [busy, setBusy] = useState<string>();
  const [error, setError] = useState<ApiError>();
  const run = async (action: Action) => {
    setAsked(undefined);
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
  const canSteer = offers("patch", "/v1/jobs/{job_id}") && (job.state === "running" || job.state === "paused");
  return (
    <div className="stack tight actions">
      <div className="row">
        {possible.map((action) => (
          <button key={action.name} type="button" className={`button ${action.name === "cancel" ? "danger" : ""}`} disabled={busy !== undefined} onClick={() => (action.confirm ? setAsked(action) : void run(action))}>
            {action.label}
          </button>
        ))}
        {canSteer && <button type="button" className="button" onClick={() => setSteering(true)}>Steer …</button>}
        {job.attempt > 0 && <Link to={`/jobs/${job.id}/checkpoints`} className="button" title="Of any of its checkpoints">Fork, rewind, export</Link>}
        <button type="button" className="button" onClick={() => navigate(`/new?from=${job.id}`)} title="A new job with this job's spec to start from">
          Use as template
        </button>
      </div>
      {error && <ErrorNote error={error} />}
      {asked && (
        <Dialog title={asked.confirm ?? ""} onClose={() => setAsked(undefined)}>
          <div className="row">
            <button type="button" className="button primary" onClick={() => void run(asked)}>{asked.label} the job</button>
            <button type="button" className="button" onClick={() => setAsked(undefined)}>Keep it as it is</button>
          </div>
        </Dialog>
      )}
      {isSteering && <Steer job={job} onClose={() => setSteering(false)} onDone={onDone} />}
    </div>
  );
}

/** Change one hyperparameter of a job that runs; the server says which can be. */
function Steer({ job, onClose, onDone }: { job: Job; onClose: () => void; onDone: () => void }) {
  const [key, setKey] = useState("rl.optim.lr");
  const [value, setValue] = useState("");
  const [error, setError] = useState<ApiError>();
  const send = async (event: FormEvent) => {
    event.preventDefault();
    try {
      await callPath("PATCH", `/v1/jobs/${job.id}`, { hyperparameters: { [key]: parsed(value) } });
      onDone();
      onClose();
    } catch (caught) {
      setError(asError(caught));
    }
  };
  return (
    <Dialog title="Steer the job" onClose={onClose}>
      <form className="stack" onSubmit={(event) => void send(event)}>
        <p className="muted">The learner applies the change between two steps, as a numbered revision.</p>
        <div className="field">
          <label htmlFor="steer-key">Key of the spec</label>
          <input id="steer-key" className="mono" value={key} onChange={(event) => setKey(event.target.value)} />
        </div>
        <div className="field">
          <label htmlFor="steer-value">New value</label>
          <input id="steer-value" className="mono" value={value} placeholder="1e-5" onChange={(event) => setValue(event.target.value)} />
        </div>
        {error && <ErrorNote error={error} />}
        <div className="row">
          <button type="submit" className="button primary" disabled={value.trim() === ""}>Apply</button>
          <button type="button" className="button" onClick={onClose}>Leave it</button>
        </div>
      </form>
    </Dialog>
  );
}

/** A number, true, false or null where it reads so; text otherwise. */
function parsed(text: string): unknown {
  const number = Number(text);
  if (text.trim() !== "" && Number.isFinite(number)) return number;
  return { true: true, false: false, null: null }[text.trim()] ?? text;
}
