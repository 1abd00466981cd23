/** Client-side routing with the history API and path patterns. */
import { type AnchorHTMLAttributes, type MouseEvent, type ReactNode, useMemo, useSyncExternalStore } from "react";

const CHANGED = "dirl:navigate";

/** Navigate to a path of the dashboard; `replace` adds no history entry. */
export function navigate(to: string, { replace = false } = {}): void {
  window.history[replace ? "replaceState" : "pushState"](null, "", to);
  window.dispatchEvent(new Event(CHANGED));
  if (!replace) window.scrollTo(0, 0);
}

function subscribe(changed: () => void): () => void {
  window.addEventListener(CHANGED, changed);
  window.addEventListener("popstate", changed);
  return () => {
    window.removeEventListener(CHANGED, changed);
    window.removeEventListener("popstate", changed);
  };
}

/** The path, e.g. "/jobs/job_1". */
export function usePath(): string {
  return useSyncExternalStore(subscribe, () => window.location.pathname);
}

/** One query parameter and its setter, which keeps the other parameters; null removes it. */
export function useSearchParam(name: string): [string | null, (value: string | null) => void] {
  const search = useSyncExternalStore(subscribe, () => window.location.search);
  const value = useMemo(() => new URLSearchParams(search).get(name), [search, name]);
  return [value, (next) => setSearchParam(name, next)];
}

function setSearchParam(name: string, value: string | null): void {
  const params = new URLSearchParams(window.location.search);
  if (value === null || value === "") params.delete(name);
  else params.set(name, value);
  const query = params.toString();
  navigate(window.location.pathname + (query ? `?${query}` : ""), { replace: true });
}

export type Params = Record<string, string>;

/** Parameters of a path that matches a pattern such as "/jobs/:id"; null if it does not match. */
export function matchPath(pattern: string, path: string): Params | null {
  const wanted = pattern.split("/");
  const given = path.replace(/(.)\/$/, "$1").split("/");
  if (wanted.length !== given.length) return null;
  const params: Params = {};
  for (const [index, part] of wanted.entries()) {
    const actual = given[index] ?? "";
    if (part.startsWith(":")) params[part.slice(1)] = decodeURIComponent(actual);
    else if (part !== actual) return null;
  }
  return params;
}

interface LinkProps extends AnchorHTMLAttributes<HTMLAnchorElement> {
  to: string;
  children: ReactNode;
}

/** A link within the dashboard. Clicks with a modifier key keep the browser's behaviour, e.g. open a new tab. */
export function Link({ to, onClick, ...rest }: LinkProps) {
  const follow = (event: MouseEvent<HTMLAnchorElement>) => {
    onClick?.(event);
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    navigate(to);
  };
  return <a {...rest} href={to} onClick={follow} />;
}
