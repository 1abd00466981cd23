/** Input for a data file: an uploaded file, a path on the server, or a new upload. */
import { useId, useRef, useState } from "react";

import { type ApiError, unwrap, api, authorization, toApiError } from "../../api/client";
import type { StoredFile } from "../../api/types";
import { asError, useQuery } from "../../api/use-query";
import { bytes, number } from "../../format";
import { ErrorNote, InlineCode } from "../../ui/parts";

interface Props {
  label: string;
  hint: string;
  value: string;
  problem: string | undefined;
  onChange: (value: string) => void;
}

export function FileField({ label, hint, value, problem, onChange }: Props) {
  const id = useId();
  const picker = useRef<HTMLInputElement>(null);
  const [error, setError] = useState<ApiError>();
  const [isSending, setSending] = useState(false);
  const files = useQuery("files", (signal) => unwrap(api.GET("/v1/files", { params: { query: { limit: 100 } }, signal })));
  const chosen = files.data?.data.find((file) => file.id === value);
  const send = async (file: File | undefined) => {
    if (file === undefined) return;
    setSending(true);
    setError(undefined);
    try {
      onChange((await upload(file)).id);
      files.reload();
    } catch (caught) {
      setError(asError(caught));
    }
    setSending(false);
  };
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <div className="row" style={{ flexWrap: "nowrap" }}>
        <input id={id} className="grow mono" list={`${id}-files`} value={value} placeholder="file_… or a path on the server" aria-invalid={problem !== undefined} onChange={(event) => onChange(event.target.value)} />
        <datalist id={`${id}-files`}>{files.data?.data.map((file) => <option key={file.id} value={file.id}>{file.filename}</option>)}</datalist>
        <button type="button" className="button" disabled={isSending} onClick={() => picker.current?.click()}>{isSending ? "Validating …" : "Upload …"}</button>
        <input ref={picker} type="file" accept=".jsonl,.ndjson,.json,.csv,.tsv,.parquet,.arrow,.gz,.zst" hidden aria-label={`Upload ${label}`} onChange={(event) => void send(event.target.files?.[0])} />
      </div>
      <span className="hint">{chosen ? describe(chosen) : <InlineCode text={hint} />}</span>
      {problem && <span className="problem">{problem}</span>}
      {error && <ErrorNote error={error} />}
    </div>
  );
}

function describe(file: StoredFile): string {
  return `${file.filename}: ${number(file.rows)} rows, ${bytes(file.bytes)}, ${file.layout_problems.length === 0 ? "all rows valid" : "rows need data.fields"}`;
}

async function upload(file: File): Promise<StoredFile> {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", file);
  const response = await fetch("/v1/files", { method: "POST", body: form, headers: authorization() });
  const body: unknown = await response.json().catch(() => undefined);
  if (!response.ok) throw toApiError(body, response);
  return body as StoredFile;
}
