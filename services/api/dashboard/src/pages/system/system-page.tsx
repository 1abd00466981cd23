/** State, activity, weights and last error of every service and replica. */
import { useCapabilities } from "../../api/capabilities";
import { unwrap, api } from "../../api/client";
import type { Service } from "../../api/types";
import { useQuery } from "../../api/use-query";
import { bytes, duration, number, humanize } from "../../format";
import { Link } from "../../router";
import { Badge, Digest, ErrorNote, Loading, Stat, When } from "../../ui/parts";
import { ApiKeys } from "./api-keys";
import { Queues } from "./queues";

const EVERY_MS = 3000;
const NOTABLE_SKEW_S = 5;
const KEYS = "/v1/api_keys";

export default function SystemPage() {
  const { offers } = useCapabilities();
  const { data, error, reload } = useQuery("system page", (signal) => unwrap(api.GET("/v1/system", { signal })), { every: EVERY_MS });
  if (data === undefined) return error ? <ErrorNote error={error} onRetry={reload} /> : <Loading what="the services" height={400} />;
  const down = data.services.filter((service) => service.state === "down").length;
  const memory = data.services.reduce((sum, service) => sum + (service.rss_bytes ?? 0), 0);
  return (
    <div className="stack">
      <div className="page-head">
        <div className="row"><h1>System</h1><Badge tone={down > 0 ? "bad" : "good"}>{down > 0 ? `${down} down` : "all services up"}</Badge></div>
      </div>
      {error && <ErrorNote error={error} onRetry={reload} />}
      <div className="card stats">
        <Stat name="Version">{data.version}</Stat>
        <Stat name="Services">{number(data.services.length)}</Stat>
        <Stat name="Rollout replicas">{number(data.services.filter((service) => service.kind === "rollout").length)}</Stat>
        <Stat name="Memory" title="Sum over the services that report it; PostgreSQL does not">{bytes(memory)}</Stat>
      </div>
      <ServiceTable services={data.services} />
      {offers("get", "/v1/queues") && <Queues />}
      {offers("get", KEYS) && <ApiKeys />}
      <p className="muted small">Prometheus metrics: <a href="/metrics">/metrics</a>. API reference: <a href="/docs">/docs</a>.</p>
    </div>
  );
}

function ServiceTable({ services }: { services: readonly Service[] }) {
  return (
    <div className="card flush table-scroll" tabIndex={0} role="region" aria-label="Services">
      <table>
        <thead>
          <tr><th scope="col">Service</th><th scope="col">State</th><th scope="col">Activity</th><th scope="col">Job</th><th scope="col">Weights</th><th scope="col" className="num">Memory</th><th scope="col">Release</th><th scope="col">Last error</th></tr>
        </thead>
        <tbody>
          {services.map((service) => (
            <tr key={`${service.kind} ${service.address}`}>
              <td><strong>{service.kind}</strong>{service.address && <div className="muted small"><code>{service.address}</code></div>}</td>
              <td><Badge tone={service.state === "up" ? "good" : "bad"}>{service.state}</Badge><ClockSkew seconds={service.clock_skew_s ?? 0} /></td>
              <td>{activityOf(service)}</td>
              <td>{jobOf(service)}</td>
              <td>{service.weight_version == null ? <span className="muted">–</span> : <span className="num">version {number(service.weight_version)} <Digest value={service.weight_digest ?? ""} length={8} /></span>}</td>
              <td className="num">{memoryOf(service)}</td>
              <td className="muted">{service.version ?? "–"}</td>
              <td className="details">{service.error ? <>{service.error} {service.error_at != null && <span className="muted small"><When time={service.error_at} /></span>}</> : <span className="muted">–</span>}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Shown beyond what synchronised clocks differ by. */
function ClockSkew({ seconds }: { seconds: number }) {
  if (Math.abs(seconds) <= NOTABLE_SKEW_S) return null;
  return <> <Badge tone="warn">clock {duration(Math.abs(seconds))} {seconds > 0 ? "ahead" : "behind"}</Badge></>;
}

function memoryOf({ database, rss_bytes: rss }: Service) {
  return database ? <span title="Size of the database on disk, including indexes">{bytes(database.size_bytes)} on disk</span> : bytes(rss);
}

function activityOf({ activity, pool, database }: Service) {
  if (database) return <span className="num">{number(database.connections)} of {number(database.max_connections)} connections</span>;
  if (pool) return <PoolActivity pool={pool} />;
  return activity ? humanize(activity) : <span className="muted">–</span>;
}

function PoolActivity({ pool }: { pool: NonNullable<Service["pool"]> }) {
  const isolation = pool.sandbox_reason ? `sandbox without bubblewrap: ${pool.sandbox_reason}` : `sandbox: ${pool.sandbox}`;
  return (
    <>
      <span className="num" title="Worker processes; queued comparisons; workers killed since the service started">{pool.workers} of {pool.max_workers} workers, {number(pool.waiting)} waiting, {number(pool.kills)} killed</span>
      <br />
      <span className="muted" title="Isolation of programs and Python graders">{isolation}</span>
    </>
  );
}

function jobOf(service: Service) {
  const id = service.job_id ?? service.leased_to;
  return id ? <Link to={`/jobs/${id}`}><code>{id.slice(0, 14)}…</code></Link> : <span className="muted">–</span>;
}
