/** Asks for an API key when the installation wants one and has none, or another one, from this browser. */
import { type FormEvent, type ReactNode, useState } from "react";

import { answer, api, apiKey, keepApiKey } from "../api/client";
import { useQuery } from "../api/use-query";

const UNAUTHENTICATED = 401;

export function ApiKeyGate({ children }: { children: ReactNode }) {
  const { error } = useQuery("gate", (signal) => answer(api.GET("/v1/jobs", { params: { query: { limit: 1 } }, signal })));
  const [entered, setEntered] = useState("");
  if (error?.status !== UNAUTHENTICATED) return children;
  const keep = (event: FormEvent) => {
    event.preventDefault();
    keepApiKey(entered.trim());
    window.location.reload();
  };
  return (
    <form className="card stack" style={{ maxWidth: 480, margin: "64px auto" }} onSubmit={keep}>
      <h1>An API key is needed</h1>
      <p className="muted">{error.message}</p>
      <div className="field">
        <label htmlFor="api-key">API key</label>
        <input id="api-key" type="password" autoComplete="off" placeholder="sk-…" value={entered} onChange={(event) => setEntered(event.target.value)} />
        <span className="hint">It is kept in this browser only.</span>
      </div>
      <div className="row">
        <button type="submit" className="button primary" disabled={entered.trim() === ""}>
          Use this key
        </button>
        {apiKey() !== null && (
          <button type="button" className="button" onClick={() => { keepApiKey(null); window.location.reload(); }}>
            Forget the kept one
          </button>
        )}
      </div>
    </form>
  );
}
