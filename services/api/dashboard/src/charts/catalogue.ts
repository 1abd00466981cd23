/** Which metrics are drawn together, in four groups; twelve charts by default. */

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
  /** Stages that measure it. */
  stages: readonly ("sft" | "rl" | "eval")[];
}

export const GROUPS: readonly Group[] = ["Progress", "Stability", "Performance", "Health"];

export const CHARTS: readonly ChartSpec[] = [
  {
    id: "accuracy", group: "Progress", title: "Accuracy", unit: "share", stages: ["sft", "rl", "eval"],
    about: "Share of responses whose answer is right: in training rollouts, and on the validation set.",
    lines: [{ metric: "reward/accuracy", label: "rollouts" }, { metric: "eval/validation/accuracy", label: "validation" }],
  },
  {
    id: "reward", group: "Progress", title: "Reward", unit: "number", stages: ["rl"],
    about: "Mean and spread of the scalar reward over the responses of a step.",
    lines: [{ metric: "reward/mean", label: "mean" }, { metric: "reward/std", label: "std" }],
  },
  {
    id: "loss", group: "Progress", title: "Loss", unit: "number", stages: ["sft", "rl"],
    about: "Training loss, and the supervised loss on the validation set.",
    lines: [{ metric: "train/loss", label: "training" }, { metric: "eval/validation/loss", label: "validation" }],
  },
  {
    id: "entropy", group: "Stability", title: "Entropy", unit: "number", stages: ["rl"],
    about: "Mean entropy of the policy at committed tokens, in nats. A collapse towards 0 ends exploration.",
    lines: [{ metric: "train/entropy", label: "nats" }],
  },
  {
    id: "grad-norm", group: "Stability", title: "Gradient norm", unit: "number", stages: ["sft", "rl"],
    about: "Before clipping.",
    lines: [{ metric: "train/grad_norm", label: "norm" }],
  },
  {
    id: "clip", group: "Stability", title: "Clipped tokens", unit: "share", stages: ["rl"],
    about: "Share of tokens whose importance ratio was clipped.",
    lines: [{ metric: "train/clip_fraction", label: "clipped" }],
  },
  {
    id: "gap", group: "Stability", title: "Trainer against rollout", unit: "number", log: true, stages: ["rl"],
    about: "Difference between the log-probability that the trainer computes for a token and the one that rollout recorded.",
    lines: [{ metric: "train/logprob_abs_diff_mean", label: "mean" }, { metric: "train/logprob_abs_diff_max", label: "largest" }],
  },
  {
    id: "tokens-per-step", group: "Performance", title: "Tokens per denoising step", unit: "number", stages: ["rl", "eval", "sft"],
    about: "How many tokens one forward pass commits: the speed of block diffusion.",
    lines: [{ metric: "diffusion/tokens_per_step", label: "rollouts" }, { metric: "eval/validation/tokens_per_step", label: "validation" }],
  },
  {
    id: "time", group: "Performance", title: "Time per step", unit: "seconds", stages: ["sft", "rl"],
    about: "Wall time of a step's phases. Grading runs beside decoding.",
    lines: [{ metric: "time/rollout_s", label: "rollout" }, { metric: "time/train_s", label: "train" }, { metric: "time/weight_sync_s", label: "sync" }, { metric: "time/reward_s", label: "reward" }],
  },
  {
    id: "throughput", group: "Performance", title: "Throughput", unit: "per second", stages: ["sft", "rl"],
    about: "Tokens per second while rollout decodes, and while the trainer computes.",
    lines: [{ metric: "perf/rollout_tokens_per_s", label: "rollout" }, { metric: "perf/trainer_tokens_per_s", label: "trainer" }],
  },
  {
    id: "outcomes", group: "Health", title: "Outcomes", unit: "share", stages: ["rl"],
    about: "How responses were judged, apart from correct and incorrect. Unverifiable is our fault and carries no reward.",
    lines: [
      { metric: "reward/outcome/no_answer", label: "no answer" }, { metric: "reward/outcome/truncated", label: "truncated" },
      { metric: "reward/outcome/too_complex", label: "too complex" }, { metric: "reward/outcome/unverifiable", label: "unverifiable" },
    ],
  },
  {
    id: "signal", group: "Health", title: "Groups without signal", unit: "share", stages: ["rl"],
    about: "Groups whose responses are all right or all wrong: they teach nothing and are replaced.",
    lines: [{ metric: "reward/frac_all_correct", label: "all correct" }, { metric: "reward/frac_all_wrong", label: "all wrong" }],
  },
];

/** A chart of one metric that none of the default ones shows. */
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
