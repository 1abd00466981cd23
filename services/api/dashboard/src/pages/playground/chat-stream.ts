/** An answer of the model as it is written: finished text, and the block that is being denoised. */
import { authorization, refusal } from "../../api/client";

export interface Turn {
  role: "user" | "assistant";
  content: string;
}

export interface Question {
  model: string;
  messages: readonly Turn[];
  maxTokens: number;
  temperature: number;
  threshold: number;
}

/** What one chunk of the stream added. */
export interface Chunk {
  text: string;
  /** Tokens of the unfinished block, null where masked; empty without one. */
  draft: readonly (string | null)[];
  /** Denoising steps so far; null when the chunk does not say. */
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

/** Ask, and give every chunk as it comes. Throws ApiError for a refusal and Error for an answer that broke off. */
export async function ask(question: Question, onChunk: (chunk: Chunk) => void, signal: AbortSignal): Promise<void> {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization() },
    body: JSON.stringify({
      model: question.model, messages: question.messages, max_tokens: question.maxTokens, temperature: question.temperature,
      confidence_threshold: question.threshold, stream: true, denoising: true,
    }),
    signal,
  });
  if (!response.ok || response.body === null) throw refusal(await response.json().catch(() => undefined), response);
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

/** One frame; null for the end. Throws when the answer broke off. */
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
