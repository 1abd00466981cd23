/** Components that several pages share. */
import { type ReactNode, useEffect, useId, useRef, useState, useSyncExternalStore } from "react";

import { ApiError } from "../api/client";
import { absolute, relative } from "../format";
import { Link } from "../router";

export type Tone = "neutral" | "active" | "good" | "warn" | "bad";

export function Badge({ tone = "neutral", plain = false, title, children }: { tone?: Tone; plain?: boolean; title?: string; children: ReactNode }) {
  return (
    <span className={`badge ${tone} ${plain ? "plain" : ""}`} title={title}>
      {children}
    </span>
  );
}

/** An error message with its list of problems and an optional retry button. */
export function ErrorNote({ error, onRetry }: { error: ApiError; onRetry?: () => void }) {
  return (
    <div className="note bad" role="alert">
      {messageLines(error).map((line) => <div key={line}>{line}</div>)}
      {error.problems.length > 0 && (
        <ul>
          {error.problems.map((problem) => (
            <li key={`${problem.path} ${problem.message}`}>
              <code>{problem.path}</code> {problem.message}
            </li>
          ))}
        </ul>
      )}
      <div className="row small">
        {error.requestId !== null && <span>Request {error.requestId}</span>}
        {onRetry && (
          <button type="button" className="button small" onClick={onRetry}>
            Retry
          </button>
        )}
      </div>
    </div>
  );
}

/** Lines of the message without those that the list of problems repeats. */
function messageLines({ message, problems }: ApiError): string[] {
  const lines = message.split("\n");
  return problems.length === 0 ? lines : lines.filter((line) => !line.startsWith("  ") || line.startsWith("  …"));
}

export function Empty({ title, children }: { title: string; children: ReactNode }) {
  return (
    <div className="empty">
      <h2>{title}</h2>
      {children}
    </div>
  );
}

/** Placeholder that reserves the height of the content while it loads. */
export function Loading({ what, height = 120 }: { what: string; height?: number }) {
  return (
    <div className="empty loading" style={{ minHeight: height }} role="status">
      Loading {what} …
    </div>
  );
}

const seconds = () => Math.floor(Date.now() / 1000);
let clock = seconds();
const listeners = new Set<() => void>();
let ticking: ReturnType<typeof setInterval> | undefined;

function subscribeToClock(changed: () => void): () => void {
  listeners.add(changed);
  ticking ??= setInterval(() => {
    clock = seconds();
    for (const listener of listeners) listener();
  }, 1000);
  return () => {
    listeners.delete(changed);
    if (listeners.size === 0) {
      clearInterval(ticking);
      ticking = undefined;
    }
  };
}

/** Current Unix time in seconds; the component rerenders every second. */
export function useNow(): number {
  return useSyncExternalStore(subscribeToClock, () => clock);
}

/** A relative time with the absolute one as its tooltip. */
export function When({ time }: { time: number | null | undefined }) {
  const now = useNow();
  if (time === null || time === undefined) return <span className="muted">–</span>;
  return (
    <time className="num" dateTime={new Date(time * 1000).toISOString()} title={absolute(time)}>
      {relative(time, now)}
    </time>
  );
}

/** Button that copies text to the clipboard. */
export function Copy({ text, label = "Copy" }: { text: string; label?: string }) {
  const [state, setState] = useState<"idle" | "done" | "failed">("idle");
  const copy = async () => {
    setState(await navigator.clipboard.writeText(text).then(() => "done" as const, () => "failed" as const));
    setTimeout(() => setState("idle"), 1500);
  };
  const shown = { idle: label, done: "Copied", failed: "Copy failed" }[state];
  return (
    <button type="button" className="button small" onClick={() => void copy()}>
      {shown}
    </button>
  );
}

export function CodeBlock({ text, label }: { text: string; label: string }) {
  return (
    <div className="code">
      <pre tabIndex={0} aria-label={label}>
        {text}
      </pre>
      <Copy text={text} />
    </div>
  );
}

/** A shortened hash with the full value as its tooltip. */
export function Digest({ value, length = 12 }: { value: string; length?: number }) {
  return (
    <code title={value} className="mono">
      {value.slice(0, length)}
    </code>
  );
}

/** Text in which backquotes mark code. */
export function InlineCode({ text }: { text: string }) {
  return text.split("`").map((part, place) => (place % 2 === 1 ? <code key={place}>{part}</code> : part));
}

export function Stat({ name, children, title }: { name: string; children: ReactNode; title?: string | undefined }) {
  return (
    <div className="stat" title={title}>
      <span className="name">{name}</span>
      <span className="value">{children}</span>
    </div>
  );
}

export function Meter({ value, tone = "active", label }: { value: number; tone?: Tone; label: string }) {
  const share = Math.round(Math.min(1, Math.max(0, value)) * 1000) / 10;
  return (
    <span className={`meter ${tone}`} role="progressbar" aria-label={label} aria-valuenow={share} aria-valuemin={0} aria-valuemax={100}>
      <span style={{ width: `${share}%` }} />
    </span>
  );
}

interface SegmentsProps<T extends string> {
  label: string;
  value: T;
  options: readonly { value: T; label: string; title?: string }[];
  onChange: (value: T) => void;
}

export function Segments<T extends string>({ label, value, options, onChange }: SegmentsProps<T>) {
  return (
    <div className="segments" role="group" aria-label={label}>
      {options.map((option) => (
        <button key={option.value} type="button" title={option.title} aria-pressed={option.value === value} onClick={() => onChange(option.value)}>
          {option.label}
        </button>
      ))}
    </div>
  );
}

export function Tabs({ label, tabs, current }: { label: string; tabs: readonly { to: string; label: string; key: string }[]; current: string }) {
  return (
    <nav className="tabs" aria-label={label}>
      {tabs.map((tab) => (
        <Link key={tab.key} to={tab.to} aria-current={tab.key === current ? "page" : undefined}>
          {tab.label}
        </Link>
      ))}
    </nav>
  );
}

interface DialogProps {
  title: string;
  children: ReactNode;
  onClose: () => void;
}

/** A modal dialog; closes on Escape or with its buttons. */
export function Dialog({ title, children, onClose }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    element.current?.showModal();
  }, []);
  return (
    <dialog ref={element} onClose={onClose} aria-labelledby={heading}>
      <div className="stack">
        <h2 id={heading}>{title}</h2>
        {children}
      </div>
    </dialog>
  );
}
