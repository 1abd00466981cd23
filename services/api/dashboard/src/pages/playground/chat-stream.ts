/** Streaming chat completions with the block that is being denoised. */
import { authorization, toApiError } from "../../api/client";

export interface Turn {
  role: "user" | "assistant";
  content: string;
}

export interface ChatRequest {
  model: string;
  messages: readonly Turn[];
  maxTokens: number;
  temperature: number;
  threshold: number;
}

/** One chunk of the stream. */
export interface Chunk {
  text: string;
  /** Tokens of the block in progress, null where masked; empty if there is none. */
  draft: readonly (string | null)[];
  /** Denoising steps so far; null if the chunk has no count. */
  step: number | null;
  /** stop | length, in the last chunk. */
  finish: string | null;
}

interface Frame {
  choices?: { delta?: { content?: string }; finish_reason?: string | null }[];
  denoising?: { step: number; draft: (string | null)[] };
  usage?: { denoising_steps?: number } | null;
  error?: { message: string };
}

/** Send the request and report every chunk. Throws ApiError if the API rejects it, Error if the stream fails. */
export async function streamChat(request: ChatRequest, onChunk: (chunk: Chunk) => void, signal: AbortSignal): Promise<void> {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization() },
    body: JSON.stringify({
      model: request.model, messages: request.messages, max_tokens: request.maxTokens, temperature: request.temperature,
      confidence_threshold: request.threshold, stream: true, denoising: true,
    }),
    signal,
  });
  if (!response.ok || response.body === null) throw toApiError(await response.json().catch(() => undefined), response);
  const reader = response.body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop() ?? "";
    for (const frame of frames) {
      const chunk = parseChunk(frame);
      if (chunk !== null) onChunk(chunk);
    }
  }
}

/** Parse one server-sent event; null for the end of the stream. Throws the error that the stream reports. */
export function parseChunk(frame: string): Chunk | null {
  const data = frame.replace(/^data: /, "");
  if (data === "[DONE]") return null;
  const { choices, denoising, usage, error } = JSON.parse(data) as Frame;
  if (error) throw new Error(error.message);
  const choice = choices?.[0];
  return {
    text: choice?.delta?.content ?? "",
    draft: denoising?.draft ?? [],
    step: denoising?.step ?? usage?.denoising_steps ?? null,
    finish: choice?.finish_reason ?? null,
  };
}
