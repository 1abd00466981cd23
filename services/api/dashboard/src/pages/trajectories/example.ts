/** A short trajectory for tests: "27+45=\boxed{71}" in blocks of four, answered wrongly. */
import type { TrajectoryDetail } from "../../api/types";

const TEXTS = ["2", "7", "+", "4", "5", "=", "\\boxed{", "7", "1", "}", "<|im_end|>", "x", "y"];

/** Three prompt tokens, so the first block of the response has one. */
export function exampleTrajectory(changes: Partial<TrajectoryDetail> = {}): TrajectoryDetail {
  return {
    id: "traj_1", object: "trajectory", created_at: 0, job_id: "job_1", attempt: 1, step: 9, group_id: "grp_1", response_index: 0,
    purpose: "train", disposition: "trained", outcome: "incorrect", reward: 0, rewards: { accuracy: 0 }, advantage: -0.5, reference_answer: "72",
    text: "27+45=\\boxed{71}", visible_len: 11, num_steps: 7, num_forwards: 11, finish_reason: "stop", weight_version: 8,
    prompt: "a b c", prompt_ids: [1, 2, 3], row: { prompt: "27+45", answer: "72" }, tokens: TEXTS, block_size: 4, mask_token_id: 99,
    token_ids: TEXTS.map((_, place) => place + 10),
    unmask_step: [1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 7, 7, 7],
    logprobs: TEXTS.map(() => -0.1),
    confidences: [0.99, 0.9, 0.95, 0.97, 0.99, 0.99, 0.99, 0.8, 0.3, 0.99, 0.99, 0.6, 0.7],
    verdict: { extracted: "71", extraction_method: "boxed", compare_path: "integer" },
    ...changes,
  };
}
