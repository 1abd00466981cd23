/** API keys, where the installation uses them. */
import { type FormEvent, useState } from "react";

import { type ApiError, callPath } from "../../api/client";
import { asError, useQuery } from "../../api/use-query";
import { CodeBlock, ErrorNote, When } from "../../ui/parts";

interface Key {
  id: string;
  name: string;
  created_at: number;
  scopes?: string[];
  last_used_at?: number | null;
}

interface NewKey extends Key {
  key?: string;
  secret?: string;
}

const PATH = "/v1/api_keys";

export function ApiKeys() {
  const { data, error, reload } = useQuery("keys", (signal) => callPath<{ data: Key[] }>("GET", PATH, undefined, signal));
  const [name, setName] = useState("");
  const [created, setCreated] = useState<NewKey>();
  const [failure, setFailure] = useState<ApiError>();
  const attempt = (action: () => Promise<void>) => void action().then(reload, (caught: unknown) => setFailure(asError(caught)));
  const createKey = (event: FormEvent) => {
    event.preventDefault();
    attempt(async () => {
      setCreated(await callPath<NewKey>("POST", PATH, { name }));
      setName("");
    });
  };
  return (
    <section className="card stack tight" aria-label="API keys">
      <h2>API keys</h2>
      {(error ?? failure) && <ErrorNote error={(error ?? failure) as ApiError} />}
      {created && <div className="note good"><span>Copy the key now. It is not shown again:</span><CodeBlock label="New key" text={created.key ?? created.secret ?? ""} /></div>}
      <ul className="stack tight">
        {data?.data.map((key) => (
          <li key={key.id} className="row">
            <strong>{key.name}</strong> <code className="muted">{key.id}</code> <span className="muted small">created <When time={key.created_at} />{key.scopes ? `, ${key.scopes.join(" ")}` : ""}</span>
            <button type="button" className="button small danger" onClick={() => attempt(() => callPath("DELETE", `${PATH}/${key.id}`))}>Delete</button>
          </li>
        ))}
      </ul>
      <form className="row" onSubmit={createKey}>
        <input aria-label="Key name" placeholder="Key name" value={name} onChange={(event) => setName(event.target.value)} />
        <button type="submit" className="button" disabled={name.trim() === ""}>Create key</button>
      </form>
    </section>
  );
}
