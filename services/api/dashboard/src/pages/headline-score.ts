/** The score that stands for a job: accuracy where a grader compares with reference answers, else the reward. */
import { type Job, latestMetric } from "../api/types";
import { number, percent } from "../format";

const ACCURACY = { name: "accuracy", validation: "eval/validation/accuracy", rollouts: "reward/accuracy", format: percent } as const;
const REWARD = { name: "reward", validation: "eval/validation/reward", rollouts: "reward/mean", format: number } as const;

export function headlineScore(job: Job): typeof ACCURACY | typeof REWARD {
  const has = (name: typeof ACCURACY.validation | typeof ACCURACY.rollouts | typeof REWARD.validation | typeof REWARD.rollouts) => latestMetric(job, name) !== undefined;
  return (has(REWARD.rollouts) || has(REWARD.validation)) && !has(ACCURACY.rollouts) && !has(ACCURACY.validation) ? REWARD : ACCURACY;
}
