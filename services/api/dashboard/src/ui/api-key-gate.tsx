/** Asks for an API key if the API rejects the stored one, or if none is stored. */
import { type FormEvent, type ReactNode, useState } from "react";

import { unwrap, api, apiKey, storeApiKey } from "../api/client";
import { useQuery } from "../api/use-query";

const UNAUTHENTICATED = 401;

export function ApiKeyGate({ children }: { children: ReactNode }) {
  const { error } = useQuery("gate", (signal) => unwrap(api.GET("/v1/jobs", { params: { query: { limit: 1 } }, signal })));
  const [entered, setEntered] = useState("");
  if (error?.status !== UNAUTHENTICATED) return children;
  const save = (event: FormEvent) => {
    event.preventDefault();
    storeApiKey(entered.trim());
    window.location.reload();
  };
  return (
    <form className="card stack" style={{ maxWidth: 480, margin: "64px auto" }} onSubmit={save}>
      <h1>API key required</h1>
      <p className="muted">{error.message}</p>
      <div className="field">
        <label htmlFor="api-key">API key</label>
        <input id="api-key" type="password" autoComplete="off" placeholder="sk-…" value={entered} onChange={(event) => setEntered(event.target.value)} />
        <span className="hint">Stored only in this browser.</span>
      </div>
      <div className="row">
        <button type="submit" className="button primary" disabled={entered.trim() === ""}>
          Save key
        </button>
        {apiKey() !== null && (
          <button type="button" className="button" onClick={() => { storeApiKey(null); window.location.reload(); }}>
            Clear saved key
          </button>
        )}
      </div>
    </form>
  );
}
