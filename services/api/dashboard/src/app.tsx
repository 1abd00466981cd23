/** The shell around every page, and the routes. */
import { lazy, type ReactNode, Suspense, useEffect } from "react";

import { CapabilitiesProvider } from "./api/capabilities";
import { JobPage } from "./pages/job/job-page";
import { JobsPage } from "./pages/jobs/jobs-page";
import { Link, matchPath, type Params, usePath } from "./router";
import { ApiKeyGate } from "./ui/api-key-gate";
import { Empty, Loading } from "./ui/parts";
import { PlatformState } from "./ui/platform-state";
import { ThemeChoice } from "./ui/theme";

const NewJobPage = lazy(() => import("./pages/new-job/new-job-page"));
const ComparePage = lazy(() => import("./pages/jobs/compare-page"));
const SystemPage = lazy(() => import("./pages/system/system-page"));
const PlaygroundPage = lazy(() => import("./pages/playground/playground-page"));

const PAGES: readonly [pattern: string, title: string, page: (params: Params) => ReactNode][] = [
  ["/", "Jobs", () => <JobsPage />],
  ["/jobs", "Jobs", () => <JobsPage />],
  ["/compare", "Compare", () => <ComparePage />],
  ["/new", "New job", () => <NewJobPage />],
  ["/system", "System", () => <SystemPage />],
  ["/playground", "Playground", () => <PlaygroundPage />],
  ["/jobs/:id", "Job", ({ id }) => <JobPage key={id} jobId={id ?? ""} tab="charts" />],
  ["/jobs/:id/:tab", "Job", ({ id, tab }) => <JobPage key={id} jobId={id ?? ""} tab={tab ?? ""} />],
  ["/jobs/:id/trajectories/:trajectory", "Trajectory", ({ id, trajectory }) => <JobPage key={id} jobId={id ?? ""} tab="trajectories" trajectoryId={trajectory ?? null} />],
];

const NAVIGATION = [
  { to: "/", label: "Jobs" },
  { to: "/new", label: "New job" },
  { to: "/playground", label: "Playground" },
  { to: "/system", label: "System" },
];

export function App() {
  const path = usePath();
  const found = PAGES.flatMap(([pattern, title, page]) => {
    const params = matchPath(pattern, path);
    return params === null ? [] : [{ title, page: () => page(params) }];
  })[0];
  const title = found?.title ?? "Not found";
  useEffect(() => {
    document.title = `${title} · DiRL Platform`;
  }, [title]);
  return (
    <CapabilitiesProvider>
      <div className="shell">
        <Side path={path} />
        <main id="main">
          <ApiKeyGate>
            <Suspense fallback={<Loading what="the page" height={400} />}>{found ? found.page() : <NotFound path={path} />}</Suspense>
          </ApiKeyGate>
        </main>
      </div>
    </CapabilitiesProvider>
  );
}

function Side({ path }: { path: string }) {
  const isCurrent = (to: string) => (to === "/" ? path === "/" || path.startsWith("/jobs") || path === "/compare" : path.startsWith(to));
  return (
    <header className="side">
      <Link to="/" className="brand" aria-label="DiRL Platform">
        <Mark />
        <span>DiRL Platform</span>
      </Link>
      <nav aria-label="Pages">
        {NAVIGATION.map(({ to, label }) => (
          <Link key={to} to={to} aria-current={isCurrent(to) ? "page" : undefined}>
            {label}
          </Link>
        ))}
      </nav>
      <div className="side-foot">
        <PlatformState />
        <ThemeChoice />
      </div>
    </header>
  );
}

function Mark() {
  return (
    <svg width={20} height={20} viewBox="0 0 16 16" aria-hidden="true">
      <rect width={16} height={16} rx={4} fill="var(--accent)" />
      <g fill="var(--on-accent)">
        <rect x={3} y={3} width={4} height={4} rx={1} />
        <rect x={9} y={9} width={4} height={4} rx={1} />
        <rect x={9} y={3} width={4} height={4} rx={1} opacity={0.35} />
        <rect x={3} y={9} width={4} height={4} rx={1} opacity={0.65} />
      </g>
    </svg>
  );
}

function NotFound({ path }: { path: string }) {
  return (
    <Empty title="Page not found">
      <p>
        No page at <code>{path}</code>. <Link to="/">Go to Jobs</Link>
      </p>
    </Empty>
  );
}
