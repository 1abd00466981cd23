"""The scalar reward of a response: the weighted sum of its grader scores."""

from collections.abc import Sequence

from services.common.errors import PlatformError
from services.common.grader_spec import GraderSpec
from services.common.trajectory import ScoredGroup, Trajectory, Verdict


def group_rewards(group: ScoredGroup, graders: Sequence[GraderSpec]) -> list[float | None]:
    """Reward of each response, in order; None where it could not be scored. Raises
    PlatformError("internal").
    """
    return [_reward(trajectory, graders) for trajectory in group.trajectories]


def _reward(trajectory: Trajectory, graders: Sequence[GraderSpec]) -> float | None:
    verdict = trajectory.verdict
    if verdict is None:
        raise PlatformError(
            "internal",
            f"Cannot compute the reward of trajectory {trajectory.trajectory_id}: it was never graded; a scored group"
            " carries a verdict for every response.",
        )
    if not verdict.outcome.is_scored:
        return None
    return sum(
        grader.weight * _score(verdict, grader.name, trajectory.trajectory_id) for grader in graders
    )


def _score(verdict: Verdict, name: str, trajectory_id: str) -> float:
    if name not in verdict.rewards:
        raise PlatformError(
            "internal",
            f"Cannot compute the reward of trajectory {trajectory_id}: grader {name!r} of the job spec gave no score,"
            f" only {sorted(verdict.rewards)} did; a missing score is no zero.",
            hint="Run the same release of the reward and trainer services.",
        )
    return verdict.rewards[name]
