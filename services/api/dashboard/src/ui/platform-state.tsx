/** Badge that shows whether all services are up. */
import { unwrap, api } from "../api/client";
import { useQuery } from "../api/use-query";
import { Link } from "../router";
import { Badge } from "./parts";

const EVERY_MS = 10_000;

export function PlatformState() {
  const { data, error } = useQuery("system", (signal) => unwrap(api.GET("/v1/system", { signal })), { every: EVERY_MS });
  const down = data?.services.filter((service) => service.state === "down") ?? [];
  if (error) return <span className="platform-state"><Badge tone="bad">Offline</Badge></span>;
  return (
    <Link to="/system" className="platform-state" title={down.map((service) => service.kind).join(", ")}>
      {data === undefined ? <Badge>connecting</Badge> : down.length > 0 ? <Badge tone="bad">{down.length} down</Badge> : <Badge tone="good">all services up</Badge>}
    </Link>
  );
}
