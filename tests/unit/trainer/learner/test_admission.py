"""How far rollouts may be ahead of training, against a data plane that answers as the test says."""

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.common.errors import PlatformError
from services.common.job_metrics import JobMetric
from services.common.job_spec import RewardSpec, RlSpec
from services.common.trajectory import PromptTask
from services.trainer.learner.admission import Admission
from services.trainer.learner.graded_group import GradedGroup
from services.trainer.learner.rl_batch import RlBatch, gather_batch
from services.trainer.learner.weight_snapshot import WeightSnapshot
from tests.support.builders import prompt_task, trajectory
from tests.support.learners import graded_group

PROMPTS_PER_STEP = 3


class Plane:
    """Ledger, factory of tasks and rollouts in one: answers a prompt with the version that is current
    when it is issued, or with what `stale` says.
    """

    def __init__(self, max_staleness: int) -> None:
        self.version, self.next, self.stale = 0, 0, dict[int, int]()
        self.sampled: dict[str, tuple[int, int]] = {}
        self.most_in_flight = self.taken = 0
        self.supplied: list[str] = []
        self.replicas = SimpleNamespace(
            renew=lambda weights: self.supplied.append(f"renew {weights.version}")
        )
        self.waits: list[tuple[int, str, bool]] = []
        self.record_time: list[JobMetric] = []
        self.report = SimpleNamespace(record_time=self._note_timed)
        plane: Any = self
        prompts: Any = SimpleNamespace(issue=self._make_tasks)
        self.rl = RlSpec(
            prompts_per_step=PROMPTS_PER_STEP,
            max_staleness=max_staleness,
            num_generations=2,
            dynamic_sampling=False,
        )
        self.admission = Admission(plane, prompts, overlapped=max_staleness > 0)

    def gather(self, count: int = PROMPTS_PER_STEP, steps_left: int = 100) -> RlBatch:
        """A step's batch of `count` groups."""
        weights = WeightSnapshot(self.version, {"w": torch.zeros(1)})
        rl = self.rl.model_copy(update={"prompts_per_step": count})
        return gather_batch(self.admission, rl, RewardSpec(), weights, steps_left)

    def step(self, count: int = PROMPTS_PER_STEP, steps_left: int = 100) -> list[int]:
        """Positions of the step's groups."""
        return [group.position for group in self.gather(count, steps_left).groups]

    def wait_until_ready(self, weights: WeightSnapshot) -> None:
        self.supplied.append(f"ready {weights.version}")

    def issue(self, tasks: Sequence[PromptTask]) -> None:
        for task in tasks:
            self.sampled[task.group_id] = (task.ledger_position, self.version)
        self.most_in_flight = max(self.most_in_flight, self.next - self.taken)

    def take(
        self, group_id: str, weights: WeightSnapshot, phase: str, *, overlapped: bool
    ) -> GradedGroup:
        self.taken += 1
        self.waits.append((weights.version, phase, overlapped))
        position, issued_under = self.sampled[group_id]
        version = self.stale.get(position, issued_under)
        responses = [trajectory(weight_version=version, response_index=index) for index in (0, 1)]
        return graded_group(responses, group_id=group_id, ledger_position=position)

    def _note_timed(self, metric: JobMetric) -> nullcontext[None]:
        self.record_time.append(metric)
        return nullcontext()

    def _make_tasks(self, count: int) -> list[PromptTask]:
        self.next += count
        places = range(self.next - count, self.next)
        return [prompt_task(group_id=f"grp_{place}", ledger_position=place) for place in places]


def test_on_policy_nothing_is_issued_beyond_what_the_step_asks_for() -> None:
    plane = Plane(max_staleness=0)

    assert plane.step() == [0, 1, 2]
    assert (plane.next, plane.step(count=2), plane.next) == (3, [3, 4], 5)
    assert plane.supplied == ["ready 0", "ready 0"]


@pytest.mark.parametrize("staleness", [1, 2])
def test_asynchronous_no_more_is_in_flight_than_admitted_and_nothing_gets_too_old(
    staleness: int,
) -> None:
    plane = Plane(staleness)
    ages = []
    for version in range(6):
        plane.version = version
        ages.append(max(version - plane.sampled[f"grp_{position}"][1] for position in plane.step()))

    assert plane.most_in_flight == (staleness + 1) * PROMPTS_PER_STEP
    assert ages == [min(version, staleness) for version in range(6)]
    assert plane.supplied == ["ready 0", *(f"renew {version}" for version in range(1, 6))]


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_wait_says_for_which_weights_and_whether_training_continues_meanwhile(
    staleness: int,
) -> None:
    plane = Plane(staleness)
    plane.version = 4

    plane.step(count=2)

    assert plane.waits == [(4, "rollout", staleness > 0)] * 2
    assert plane.record_time == [JobMetric.TIME_WAIT_FOR_BATCH_S] * 3


def test_the_last_steps_issue_nothing_beyond_themselves() -> None:
    plane = Plane(max_staleness=2)

    for version, left in enumerate((3, 2, 1)):
        plane.version = version
        plane.step(steps_left=left)

    assert plane.next == 3 * PROMPTS_PER_STEP


def test_a_stale_group_is_dropped_and_another_prompt_issued() -> None:
    plane = Plane(max_staleness=1)
    plane.version, plane.stale = 2, {1: 0}

    batch = plane.gather()

    assert ([group.position for group in batch.groups], batch.stale) == ([0, 2, 3], [1])
    assert plane.gather().stale == []


def test_the_ledger_hears_of_every_position_of_a_step_stale_ones_included() -> None:
    plane = Plane(max_staleness=1)
    plane.version, plane.stale = 2, {1: 0}

    record = plane.gather().to_record(step=3)

    assert (record.stage, record.step, record.trained) == ("rl", 3, (0, 2, 3))
    assert record.dropped == {1: "stale"}


def test_replicas_that_never_get_new_weights_end_the_attempt() -> None:
    plane = Plane(max_staleness=1)
    plane.version, plane.stale = 2, dict.fromkeys(range(100), 0)

    with pytest.raises(
        PlatformError, match=r"train version 2: 10 groups .*under version 0"
    ) as caught:
        plane.step()
    assert caught.value.code == "stale_weights"


def test_as_many_stale_groups_as_three_batches_are_replaced() -> None:
    plane = Plane(max_staleness=1)
    plane.version, plane.stale = 2, dict.fromkeys(range(3 * PROMPTS_PER_STEP), 0)

    assert plane.step() == [9, 10, 11]
