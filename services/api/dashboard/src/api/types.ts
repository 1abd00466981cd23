/** Names of the API's schemas in the dashboard. */
import type registry from "../generated/metrics.json";
import type { JobView, operations } from "../generated/schema";

export type {
  AttemptView as Attempt,
  CertificateView as Certificate,
  CheckpointView as Checkpoint,
  EvaluationView as Evaluation,
  EventView as JobEvent,
  FileView as StoredFile,
  GroupView as Group,
  JobEstimate as Estimate,
  JobState,
  JobView as Job,
  MetricSeries,
  PromptView as Prompt,
  ModelView as Model,
  ServiceView as Service,
  SystemView as System,
  TrajectoryDetail,
} from "../generated/schema";

/** Query parameters of the groups list. */
export type GroupQuery = NonNullable<operations["list_groups"]["parameters"]["query"]>;

/** A metric of services/common/job_metrics.py with a fixed name. */
export type MetricName = keyof typeof registry.metrics;

/** The latest value of a metric of the job; the type admits registered names only. */
export function latestMetric(job: JobView, metric: MetricName): number | undefined {
  return job.latest_metrics[metric];
}
