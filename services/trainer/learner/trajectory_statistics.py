"""Numbers about sampled responses that training steps and evaluations both report."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from services.common.trajectory import FinishReason, Outcome, Trajectory
from services.trainer.learner.graded_group import GradedGroup


def trajectories_of(groups: Sequence[GradedGroup]) -> list[Trajectory]:
    """All responses, group by group."""
    return [trajectory for group in groups for trajectory in group.trajectories]


def outcome_shares(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Share of every outcome, those that did not occur included; raises ValueError without
    responses.
    """
    if not trajectories:
        raise ValueError("shares need at least one response")
    counts = Counter(trajectory.outcome for trajectory in trajectories)
    return {outcome.value: counts[outcome] / len(trajectories) for outcome in Outcome}


def drop_aborted(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Leave out abandoned responses: their length and speed say nothing."""
    return [trajectory for trajectory in trajectories if not trajectory.response.is_aborted]


def tokens_per_step(trajectories: Sequence[Trajectory]) -> float | None:
    """Tokens committed per denoising step, over all responses together; None when nothing was
    generated.
    """
    steps = sum(trajectory.response.num_steps for trajectory in trajectories)
    tokens = sum(len(trajectory.response.token_ids) for trajectory in trajectories)
    return tokens / steps if steps else None


def steps_per_block(groups: Sequence[GradedGroup]) -> float | None:
    """Denoising steps per block decoded; the block that the prompt begins counts as one."""
    blocks = steps = 0
    for group in groups:
        prompt, size = len(group.task.prompt_ids), group.task.decoding.block_size
        for trajectory in drop_aborted(group.trajectories):
            # Blocks are counted on the grid that starts at the prompt, as the engine decodes them.
            blocks += (prompt + len(trajectory.response.token_ids)) // size - prompt // size
            steps += trajectory.response.num_steps
    return steps / blocks if blocks else None


def truncation_rate(trajectories: Sequence[Trajectory]) -> float | None:
    """Share of responses that ended because the token budget was used up."""
    ends = [trajectory.response.finish_reason is FinishReason.LENGTH for trajectory in trajectories]
    return float(np.mean(ends)) if ends else None


def drop_missing(values: dict[str, float | None]) -> dict[str, float]:
    """Leave out numbers that cannot be computed: a zero would look like a result."""
    return {name: value for name, value in values.items() if value is not None}
