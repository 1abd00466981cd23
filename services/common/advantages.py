"""Advantages within a group, shared by the learner and by rescoring.

Responses without a score (unverifiable, aborted) are failures of the platform: they are excluded
from the statistics of the group and get no advantage, instead of counting as incorrect.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Baseline = Literal["std", "mean", "leave_one_out"]

MIN_SCORED = 2
"""Scored responses that a comparison needs."""


def group_advantages(rewards: Sequence[float | None], baseline: Baseline) -> list[float | None]:
    """Return the advantage of each response of a group; None where the reward is None.

    std: (r − mean) / population standard deviation, 0 if the rewards are all equal (GRPO, arXiv
    2402.03300, and DiPO). mean: r − mean, whose expected gradient is 1 − 1/G times the true one
    (Dr. GRPO, arXiv 2503.20783). leave_one_out: r − mean of the others, unbiased (RLOO, arXiv
    2402.14740); a lone response has no others: None.
    """
    scored = np.array([reward for reward in rewards if reward is not None], dtype=np.float64)
    values = iter(_compute_advantages(scored, baseline))
    return [None if reward is None else next(values) for reward in rewards]


def _compute_advantages(
    rewards: np.ndarray[tuple[int], np.dtype[np.float64]], baseline: Baseline
) -> list[float | None]:
    count = len(rewards)
    if count == 0:
        return []
    if baseline == "leave_one_out" and count < MIN_SCORED:
        return [None]
    # The computed deviation of equal rewards may differ from 0 by rounding, and dividing by it would
    # give advantages of ±1.
    if rewards.min() == rewards.max():
        return [0.0] * count
    centred = rewards - rewards.mean()
    scale = {"std": 1 / rewards.std(), "mean": 1.0, "leave_one_out": count / (count - 1)}[baseline]
    return [float(value) for value in centred * scale]
