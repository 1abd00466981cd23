"""Admission control of a reinforcement stage: how far rollouts may run ahead of training.

A prompt that is issued at step s is trained on at step s + max_staleness at the latest, because no
more than (max_staleness + 1) * prompts_per_step groups are ever on the way or gathered, and because
they are consumed in the order of their issue, so that long answers are not overtaken. With
max_staleness 0 nothing runs ahead: what a step consumes depends on the seed alone, not on who
answered first.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from services.common.errors import PlatformError
from services.common.job_spec import RlSpec
from services.common.trajectory import PromptTask, ScoredGroup
from services.trainer.learner.rollouts import Rollouts
from services.trainer.learner.weight_snapshot import WeightSnapshot

_MAX_STALE: Final = 3
"""Stale groups of a step, in batches, after which the replicas are taken to be out of reach of new
weights.
"""


class Admission:
    """Prompts on the way, in the order of their issue."""

    def __init__(
        self, rollouts: Rollouts, rl: RlSpec, issue: Callable[[int], Sequence[PromptTask]]
    ) -> None:
        """`issue` makes tasks of the next so many places of the prompt ledger."""
        self._rollouts, self._rl, self._issue = rollouts, rl, issue
        self._on_the_way: deque[PromptTask] = deque()
        self._dropped: list[int] = []
        self._begun = False

    def collect(self, count: int, weights: WeightSnapshot, steps_left: int) -> list[ScoredGroup]:
        """The next `count` groups, of which every trajectory is at most `max_staleness` versions
        old.

        `count` is what the step's batch lacks; `steps_left` counts this step. A staler group is
        dropped and another prompt issued. Raises what Rollouts.take raises, and `stale_weights`
        when nothing else arrives.
        """
        self._renew(weights)
        ahead = min(self._rl.max_staleness, steps_left - 1) * self._rl.prompts_per_step
        fresh: list[ScoredGroup] = []
        while len(fresh) < count:
            self._admit(ahead + count - len(fresh))
            task = self._on_the_way[0]
            group = self._rollouts.take(task, weights, "rollout", beside=self._rl.max_staleness > 0)
            self._on_the_way.popleft()
            if weights.version - oldest_version(group) <= self._rl.max_staleness:
                fresh.append(group)
            else:
                self._drop(task, group, weights)
        return fresh

    def take_dropped(self) -> list[int]:
        """Ledger positions of the stale groups since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def _renew(self, weights: WeightSnapshot) -> None:
        """Get the weights to the replicas; running ahead, only the first version is waited for."""
        if self._begun and self._rl.max_staleness > 0:
            self._rollouts.replicas.renew(weights)
        else:
            self._rollouts.ready(weights)
            self._begun = True

    def _admit(self, limit: int) -> None:
        tasks = self._issue(max(0, limit - len(self._on_the_way)))
        self._on_the_way.extend(tasks)
        self._rollouts.issue(tasks)

    def _drop(self, task: PromptTask, group: ScoredGroup, weights: WeightSnapshot) -> None:
        self._dropped.append(task.ledger_position)
        if len(self._dropped) > _MAX_STALE * self._rl.prompts_per_step:
            raise PlatformError(
                "stale_weights",
                f"Cannot train version {weights.version}: {len(self._dropped)} groups were sampled under weights more "
                f"than rl.max_staleness={self._rl.max_staleness} versions older, the last one by replica "
                f"{group.replica} under version {oldest_version(group)}.",
                hint="Look at the rollout service's log for weight updates that fail.",
            )


def oldest_version(group: ScoredGroup) -> int:
    """Oldest weight version of a group's trajectories."""
    return min(trajectory.weight_version for trajectory in group.trajectories)
