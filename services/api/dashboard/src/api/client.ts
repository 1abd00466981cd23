/** Client of the public API, typed by its OpenAPI document. */
import createClient from "openapi-fetch";

import type { ErrorEnvelope, paths, ProblemBody } from "../generated/schema";

/** An error response of the API, or a failed request; the message is shown to the user. */
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

/** Code of a request that got no response. */
export const UNREACHABLE = "unreachable";

const KEY = "dirl.api-key";

/** The API key stored in this browser, if any. */
export function apiKey(): string | null {
  return localStorage.getItem(KEY);
}

/** Store the API key in this browser; null removes it. */
export function storeApiKey(key: string | null): void {
  if (key === null) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, key);
}

/** Authorization header, if an API key is stored. */
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

interface Result<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** Data of the response. Throws ApiError for an error response, or if the API cannot be reached. */
export async function unwrap<T>(call: Promise<Result<T>>): Promise<T> {
  let result: Result<T>;
  try {
    result = await call;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("Cannot reach the API. Check that the server is running and try again.", 0, UNREACHABLE);
  }
  if (result.error !== undefined || !result.response.ok) throw toApiError(result.error, result.response);
  return result.data as T;
}

/** The error of an error response. */
export function toApiError(body: unknown, response: Response): ApiError {
  const error = (body as Partial<ErrorEnvelope> | undefined)?.error;
  if (error === undefined || typeof error !== "object") {
    return new ApiError(`The server responded with ${response.status} ${response.statusText}.`, response.status, "unknown");
  }
  return new ApiError(error.message, response.status, error.code, error.problems ?? [], error.request_id);
}

/** Call an operation by its path, for operations that some installations do not offer (see `useCapabilities`). */
export async function callPath<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const init: RequestInit = {
    method,
    headers: { ...authorization(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    ...(signal ? { signal } : {}),
  };
  return unwrap<T>(readJson<T>(fetch(path, init)));
}

async function readJson<T>(request: Promise<Response>): Promise<Result<T>> {
  const response = await request;
  const body: unknown = await response.json().catch(() => undefined);
  return response.ok ? { data: body as T, response } : { error: body ?? {}, response };
}
