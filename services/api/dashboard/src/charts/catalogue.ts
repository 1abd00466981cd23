/** Charts and their metrics, in four groups; twelve charts by default. */

export type Group = "Progress" | "Stability" | "Performance" | "Health";
export type Unit = "share" | "seconds" | "count" | "number" | "gib" | "per second";

export interface Line {
  metric: string;
  label: string;
}

export interface ChartSpec {
  id: string;
  group: Group;
  title: string;
  about: string;
  unit: Unit;
  lines: readonly Line[];
  log?: boolean;
  /** Stages that report the metrics. */
  stages: readonly ("sft" | "rl" | "eval")[];
}

export const GROUPS: readonly Group[] = ["Progress", "Stability", "Performance", "Health"];

export const CHARTS: readonly ChartSpec[] = [
  {
    id: "accuracy", group: "Progress", title: "Accuracy", unit: "share", stages: ["sft", "rl", "eval"],
    about: "Fraction of correct responses in training rollouts and on the validation set.",
    lines: [{ metric: "reward/accuracy", label: "rollouts" }, { metric: "eval/validation/accuracy", label: "validation" }],
  },
  {
    id: "reward", group: "Progress", title: "Reward", unit: "number", stages: ["rl"],
    about: "Mean and standard deviation of the reward over the responses of a step.",
    lines: [{ metric: "reward/mean", label: "mean" }, { metric: "reward/std", label: "std" }],
  },
  {
    id: "loss", group: "Progress", title: "Loss", unit: "number", stages: ["sft", "rl"],
    about: "Training loss and supervised loss on the validation set.",
    lines: [{ metric: "train/loss", label: "training" }, { metric: "eval/validation/loss", label: "validation" }],
  },
  {
    id: "entropy", group: "Stability", title: "Entropy", unit: "number", stages: ["rl"],
    about: "Mean entropy of the policy at committed tokens, in nats. Entropy near 0 means no exploration.",
    lines: [{ metric: "train/entropy", label: "nats" }],
  },
  {
    id: "grad-norm", group: "Stability", title: "Gradient norm", unit: "number", stages: ["sft", "rl"],
    about: "Global gradient norm before clipping.",
    lines: [{ metric: "train/grad_norm", label: "norm" }],
  },
  {
    id: "clip", group: "Stability", title: "Clip fraction", unit: "share", stages: ["rl"],
    about: "Fraction of tokens whose importance ratio was clipped.",
    lines: [{ metric: "train/clip_fraction", label: "clip fraction" }],
  },
  {
    id: "gap", group: "Stability", title: "Trainer-rollout log-prob difference", unit: "number", log: true, stages: ["rl"],
    about: "Absolute difference between the log-probability of a token in the trainer and the one recorded by the rollout.",
    lines: [{ metric: "train/logprob_abs_diff_mean", label: "mean" }, { metric: "train/logprob_abs_diff_max", label: "max" }],
  },
  {
    id: "tokens-per-step", group: "Performance", title: "Tokens per denoising step", unit: "number", stages: ["rl", "eval", "sft"],
    about: "Tokens committed per forward pass.",
    lines: [{ metric: "diffusion/tokens_per_step", label: "rollouts" }, { metric: "eval/validation/tokens_per_step", label: "validation" }],
  },
  {
    id: "time", group: "Performance", title: "Time per step", unit: "seconds", stages: ["sft", "rl"],
    about: "Wall time of the phases of a step. Grading runs concurrently with decoding.",
    lines: [{ metric: "time/rollout_s", label: "rollout" }, { metric: "time/train_s", label: "train" }, { metric: "time/weight_sync_s", label: "sync" }, { metric: "time/reward_s", label: "reward" }],
  },
  {
    id: "throughput", group: "Performance", title: "Throughput", unit: "per second", stages: ["sft", "rl"],
    about: "Tokens per second of rollout decoding and of training.",
    lines: [{ metric: "perf/rollout_tokens_per_s", label: "rollout" }, { metric: "perf/trainer_tokens_per_s", label: "trainer" }],
  },
  {
    id: "outcomes", group: "Health", title: "Outcomes", unit: "share", stages: ["rl"],
    about: "Outcomes other than correct and incorrect. An unverifiable response has no reward.",
    lines: [
      { metric: "reward/outcome/no_answer", label: "no answer" }, { metric: "reward/outcome/truncated", label: "truncated" },
      { metric: "reward/outcome/too_complex", label: "too complex" }, { metric: "reward/outcome/unverifiable", label: "unverifiable" },
    ],
  },
  {
    id: "signal", group: "Health", title: "Zero-variance groups", unit: "share", stages: ["rl"],
    about: "Fraction of groups whose responses are all correct or all incorrect. Their advantage is zero.",
    lines: [{ metric: "reward/frac_all_correct", label: "all correct" }, { metric: "reward/frac_all_wrong", label: "all incorrect" }],
  },
];

/** A chart of one metric that is not in the default charts. */
export function chartOf(metric: string): ChartSpec {
  return { id: metric, group: "Health", title: metric, about: "", unit: unitOf(metric), lines: [{ metric, label: metric.split("/").at(-1) ?? metric }], stages: [] };
}

function unitOf(metric: string): Unit {
  if (metric.endsWith("_s") && !metric.endsWith("_per_s")) return "seconds";
  if (metric.endsWith("_gib")) return "gib";
  if (metric.endsWith("_per_s")) return "per second";
  return /rate$|ratio$|frac|share/.test(metric) ? "share" : "number";
}

/** Every metric of the default charts. */
export const DEFAULT_METRICS: readonly string[] = CHARTS.flatMap((chart) => chart.lines.map((line) => line.metric));
