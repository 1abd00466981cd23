/** Streams between the learner, the replicas and the recorder. */
import { unwrap, api } from "../../api/client";
import { useQuery } from "../../api/use-query";
import { bytes, duration, number } from "../../format";
import { Link } from "../../router";
import { ErrorNote } from "../../ui/parts";

const EVERY_MS = 3000;

export function Queues() {
  const { data, error } = useQuery("queues", (signal) => unwrap(api.GET("/v1/queues", { signal })), { every: EVERY_MS });
  return (
    <section className="card flush" aria-label="Queues">
      <h2 style={{ padding: "12px 16px 4px" }}>Queues</h2>
      {error && <ErrorNote error={error} />}
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Streams">
        <table>
          <thead><tr><th scope="col">Stream</th><th scope="col">Job</th><th scope="col" className="num">Entries</th><th scope="col" className="num">Pending</th><th scope="col" className="num">Oldest entry</th><th scope="col" className="num">Memory</th></tr></thead>
          <tbody>
            {data?.data.map((queue) => (
              <tr key={queue.id}>
                <td>{queue.name}</td>
                <td>{queue.job_id ? <Link to={`/jobs/${queue.job_id}`}><code>{queue.job_id.slice(0, 14)}…</code></Link> : <span className="muted">all</span>}</td>
                <td className="num">{number(queue.entries)}</td>
                <td className="num">{number(queue.pending)}</td>
                <td className="num">{queue.oldest_age_s === null ? "–" : duration(queue.oldest_age_s)}</td>
                <td className="num">{bytes(queue.bytes)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
