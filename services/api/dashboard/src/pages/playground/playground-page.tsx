/** Chat with a model or checkpoint and watch the denoising steps. */
import { type FormEvent, useRef, useState } from "react";

import { useCapabilities } from "../../api/capabilities";
import { unwrap, api, ApiError } from "../../api/client";
import { asError, useQuery } from "../../api/use-query";
import { number } from "../../format";
import { useSearchParam } from "../../router";
import { Badge, Empty, ErrorNote } from "../../ui/parts";
import { jobName } from "../job-state";
import { visibleText } from "../trajectories/replay-model";
import { type Chunk, streamChat, type Turn } from "./chat-stream";

const PATH = "/v1/chat/completions";

interface Choice {
  id: string;
  label: string;
}

interface Writing {
  text: string;
  draft: Chunk["draft"];
  step: number;
}

export default function PlaygroundPage() {
  const { offers, schemas } = useCapabilities();
  const choices = useChoices();
  const [wanted, setWanted] = useSearchParam("model");
  const [turns, setTurns] = useState<readonly Turn[]>([]);
  const [text, setText] = useState("");
  const [maxTokens, setMaxTokens] = useState(64);
  const [temperature, setTemperature] = useState(0);
  const [threshold, setThreshold] = useState(0.9);
  const [writing, setWriting] = useState<Writing>();
  const [last, setLast] = useState<string>();
  const [error, setError] = useState<ApiError>();
  const abort = useRef<AbortController>(undefined);
  const model = wanted ?? choices[0]?.id ?? "";
  if (schemas !== undefined && !offers("post", PATH)) return <Empty title="Playground not available"><p>This release of the API has no chat completions.</p></Empty>;

  const send = async (event: FormEvent) => {
    event.preventDefault();
    const messages: Turn[] = [...turns, { role: "user", content: text }];
    setTurns(messages);
    setText("");
    setError(undefined);
    setLast(undefined);
    const response: Writing = { text: "", draft: [], step: 0 };
    setWriting(response);
    abort.current = new AbortController();
    try {
      await streamChat({ model, messages, maxTokens, temperature, threshold }, (chunk) => {
        response.text += chunk.text;
        response.draft = chunk.draft;
        response.step = chunk.step ?? response.step;
        setWriting({ ...response });
        if (chunk.finish !== null) setLast(`${number(response.step)} denoising steps, finish reason: ${chunk.finish}`);
      }, abort.current.signal);
    } catch (caught) {
      if (!abort.current.signal.aborted) setError(asError(caught));
    }
    setWriting(undefined);
    if (response.text !== "") setTurns([...messages, { role: "assistant", content: response.text }]);
  };
  const clear = () => {
    abort.current?.abort();
    setTurns([]);
    setError(undefined);
    setLast(undefined);
  };
  return (
    <div className="stack">
      <div className="page-head">
        <h1>Playground</h1>
        <button type="button" className="button" onClick={clear} disabled={turns.length === 0}>New conversation</button>
      </div>
      <div className="playground">
        <section className="card stack chat" aria-label="Conversation">
          {turns.length === 0 && <p className="muted">Send a message. The response is generated block by block; within a block, tokens with the highest confidence are committed first.</p>}
          {turns.map((turn, place) => (
            <div key={place} className="turn"><span className="who">{turn.role === "user" ? "You" : "Model"}</span><span className="said mono">{turn.content}</span></div>
          ))}
          {writing && <Draft writing={writing} />}
          {last && <p className="muted small" role="status">{last}</p>}
          {error && <ErrorNote error={error} />}
          <form className="row" onSubmit={(event) => void send(event)} style={{ marginTop: "auto" }}>
            <input className="grow" aria-label="Message" placeholder="Tom had 27 figs, got 45" value={text} onChange={(event) => setText(event.target.value)} />
            {writing ? <button type="button" className="button" onClick={() => abort.current?.abort()}>Stop</button> : <button type="submit" className="button primary" disabled={text.trim() === "" || model === ""}>Send</button>}
          </form>
        </section>
        <aside className="card stack tight" aria-label="Settings">
          <div className="field">
            <label htmlFor="model">Model or checkpoint</label>
            <select id="model" value={model} onChange={(event) => setWanted(event.target.value)}>
              {choices.length === 0 && <option value="">No models</option>}
              {wanted !== null && !choices.some((choice) => choice.id === wanted) && <option value={wanted}>{wanted}</option>}
              {choices.map((choice) => <option key={choice.id} value={choice.id}>{choice.label}</option>)}
            </select>
            <span className="hint">Uses an idle replica; training jobs have priority.</span>
          </div>
          <Setting id="tokens" label="Max tokens" value={maxTokens} min={4} max={2048} step={4} onChange={setMaxTokens} />
          <Setting id="threshold" label="Confidence threshold" value={threshold} min={0} max={1} step={0.05} onChange={setThreshold} hint="Tokens with at least this confidence are committed in one step. Lower is faster and less accurate." />
          <Setting id="temperature" label="Temperature" value={temperature} min={0} max={2} step={0.1} onChange={setTemperature} hint="0 uses greedy decoding." />
        </aside>
      </div>
    </div>
  );
}

/** Registered models and the newest checkpoints of recent jobs. */
function useChoices(): readonly Choice[] {
  const models = useQuery("playground models", (signal) => unwrap(api.GET("/v1/models", { params: { query: { limit: 50 } }, signal })));
  const jobs = useQuery("playground jobs", (signal) => unwrap(api.GET("/v1/jobs", { params: { query: { limit: 50 } }, signal })));
  return [
    ...(jobs.data?.data ?? []).filter((job) => job.result_checkpoint !== null).map((job) => ({ id: job.id, label: `${jobName(job)}, latest checkpoint (${job.id.slice(-6)})` })),
    ...(models.data?.data ?? []).map((item) => ({ id: item.id, label: `${item.name} (model)` })),
  ];
}

function Draft({ writing }: { writing: Writing }) {
  return (
    <div className="turn" aria-live="off">
      <span className="who">Model <Badge tone="active">{writing.step === 0 ? "loading" : `step ${number(writing.step)}`}</Badge></span>
      <span className="said mono">
        {writing.text}
        {writing.draft.map((token, place) => (
          <span key={place} className={`token ${token === null ? "mask" : "ramp-1"}`}>{token === null ? "▒" : visibleText(token)}</span>
        ))}
      </span>
    </div>
  );
}

interface SettingProps {
  id: string;
  label: string;
  value: number;
  min: number;
  max: number;
  step: number;
  hint?: string;
  onChange: (value: number) => void;
}

function Setting({ id, label, value, hint, onChange, ...bounds }: SettingProps) {
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input id={id} type="number" className="num" value={value} {...bounds} onChange={(event) => onChange(Number(event.target.value))} />
      {hint && <span className="hint">{hint}</span>}
    </div>
  );
}
