"""How far rollouts may run ahead, against a data plane that answers as the test says."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.common.errors import PlatformError
from services.common.job_spec import RlSpec
from services.common.trajectory import PromptTask, ScoredGroup
from services.trainer.learner.admission import Admission
from services.trainer.learner.weight_snapshot import WeightSnapshot
from tests.support.builders import prompt_task, scored_group, trajectory

PROMPTS_PER_STEP = 3


class Plane:
    """Answers a prompt with the version that is current when it is issued, or with what `stale`
    says.
    """

    def __init__(self, max_staleness: int) -> None:
        self.version, self.next, self.stale = 0, 0, dict[int, int]()
        self.sampled: dict[int, int] = {}
        self.most_on_the_way = self.taken = 0
        self.supplied: list[str] = []
        self.replicas = SimpleNamespace(
            renew=lambda weights: self.supplied.append(f"renew {weights.version}")
        )
        rl = RlSpec(prompts_per_step=PROMPTS_PER_STEP, max_staleness=max_staleness)
        rollouts: Any = self
        self.admission = Admission(rollouts, rl, self._tasks)

    def step(self, count: int = PROMPTS_PER_STEP, steps_left: int = 100) -> list[int]:
        """Positions that a collect returns."""
        weights = WeightSnapshot(self.version, {"w": torch.zeros(1)})
        return [
            group.task.ledger_position
            for group in self.admission.collect(count, weights, steps_left)
        ]

    def ready(self, weights: WeightSnapshot) -> None:
        self.supplied.append(f"ready {weights.version}")

    def issue(self, tasks: Sequence[PromptTask]) -> None:
        self.sampled.update((task.ledger_position, self.version) for task in tasks)
        self.most_on_the_way = max(self.most_on_the_way, self.next - self.taken)

    def take(
        self, task: PromptTask, weights: WeightSnapshot, phase: str, *, beside: bool
    ) -> ScoredGroup:
        self.taken += 1
        position = task.ledger_position
        version = self.stale.get(position, self.sampled[position])
        return scored_group(task=task, trajectories=(trajectory(weight_version=version),))

    def _tasks(self, count: int) -> list[PromptTask]:
        self.next += count
        places = range(self.next - count, self.next)
        return [prompt_task(group_id=f"grp_{place}", ledger_position=place) for place in places]


def test_on_policy_nothing_is_issued_beyond_what_the_step_asks_for() -> None:
    plane = Plane(max_staleness=0)

    assert plane.step() == [0, 1, 2]
    assert (plane.next, plane.step(count=2), plane.next) == (3, [3, 4], 5)
    assert plane.supplied == ["ready 0", "ready 0"]


@pytest.mark.parametrize("staleness", [1, 2])
def test_running_ahead_no_more_is_on_the_way_than_admitted_and_nothing_gets_too_old(
    staleness: int,
) -> None:
    plane = Plane(staleness)
    ages = []
    for version in range(6):
        plane.version = version
        ages.append(max(version - plane.sampled[position] for position in plane.step()))

    assert plane.most_on_the_way == (staleness + 1) * PROMPTS_PER_STEP
    assert ages == [min(version, staleness) for version in range(6)]
    assert plane.supplied == ["ready 0", *(f"renew {version}" for version in range(1, 6))]


def test_the_last_steps_do_not_run_ahead() -> None:
    plane = Plane(max_staleness=2)

    for version, left in enumerate((3, 2, 1)):
        plane.version = version
        plane.step(steps_left=left)

    assert plane.next == 3 * PROMPTS_PER_STEP


def test_a_stale_group_is_dropped_and_another_prompt_issued() -> None:
    plane = Plane(max_staleness=1)
    plane.version, plane.stale = 2, {1: 0}

    assert plane.step() == [0, 2, 3]
    assert (plane.admission.take_dropped(), plane.admission.take_dropped()) == ([1], [])


def test_replicas_that_never_get_new_weights_end_the_attempt() -> None:
    plane = Plane(max_staleness=1)
    plane.version, plane.stale = 2, dict.fromkeys(range(100), 0)

    with pytest.raises(PlatformError, match="under version 0") as caught:
        plane.step()
    assert caught.value.code == "stale_weights"
