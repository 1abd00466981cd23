/** Calls of the platform's public API, typed by its own OpenAPI document. */
import createClient from "openapi-fetch";

import type { ErrorEnvelope, paths, ProblemBody } from "../generated/schema";

/** A refusal of the API, or its silence; the message is fit for the user and says the way out. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
    readonly problems: readonly ProblemBody[] = [],
    readonly requestId: string | null = null,
  ) {
    super(message);
  }
}

const KEY = "dirl.api-key";

/** The key that this browser sends, if one was entered. */
export function apiKey(): string | null {
  return localStorage.getItem(KEY);
}

/** Keep a key in this browser; null forgets it. */
export function keepApiKey(key: string | null): void {
  if (key === null) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, key);
}

/** Headers that every request carries. */
export function authorization(): Record<string, string> {
  const key = apiKey();
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

export const api = createClient<paths, "application/json">({ baseUrl: globalThis.location.origin, fetch: (request) => globalThis.fetch(request) });
api.use({
  onRequest({ request }) {
    for (const [name, value] of Object.entries(authorization())) request.headers.set(name, value);
    return request;
  },
});

interface Called<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The answer's data; throws ApiError for a refusal or when nothing answers. */
export async function answer<T>(call: Promise<Called<T>>): Promise<T> {
  let done: Called<T>;
  try {
    done = await call;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("The platform does not answer. Is `dirl up` still running?", 0, "unreachable");
  }
  if (done.error !== undefined || !done.response.ok) throw refusal(done.error, done.response);
  return done.data as T;
}

/** The envelope of a refusal as an error. */
export function refusal(body: unknown, response: Response): ApiError {
  const error = (body as Partial<ErrorEnvelope> | undefined)?.error;
  if (error === undefined || typeof error !== "object") {
    return new ApiError(`The server answered ${response.status} ${response.statusText}.`, response.status, "unknown");
  }
  return new ApiError(error.message, response.status, error.code, error.problems ?? [], error.request_id);
}

/** A call of an operation that this installation may or may not offer, by its path; see `useCapabilities`. */
export async function callPath<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const init: RequestInit = {
    method,
    headers: { ...authorization(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    ...(signal ? { signal } : {}),
  };
  return answer<T>(readJson<T>(fetch(path, init)));
}

async function readJson<T>(request: Promise<Response>): Promise<Called<T>> {
  const response = await request;
  const body: unknown = await response.json().catch(() => undefined);
  return response.ok ? { data: body as T, response } : { error: body ?? {}, response };
}
