"""Gathering a step's batch: what is kept, dropped and refilled, and when a step cannot be taken."""

from collections.abc import Sequence
from typing import Any

import pytest

from services.common.errors import PlatformError
from services.common.job_spec import RewardSpec, RlSpec
from services.common.trajectory import Outcome, Verdict
from services.trainer.learner.graded_group import GradedGroup
from services.trainer.learner.rl_batch import RlBatch, gather_batch
from services.trainer.learner.rl_metrics import batch_metrics
from services.trainer.learner.verifiability import UnverifiableError
from services.trainer.learner.weight_snapshot import WeightSnapshot
from tests.support.builders import trajectory
from tests.support.learners import graded_group

WEIGHTS = WeightSnapshot(0, {})

C, W, N, U, A = (
    Outcome.CORRECT,
    Outcome.INCORRECT,
    Outcome.NO_ANSWER,
    Outcome.UNVERIFIABLE,
    Outcome.ABORTED,
)


def group(position: int, outcomes: Sequence[Outcome]) -> GradedGroup:
    """A group whose responses were graded so; correct ones score 1."""
    return graded_group(
        [
            trajectory(
                response_index=index,
                trajectory_id=f"traj_{position}_{index}",
                verdict=Verdict(
                    outcome=outcome,
                    reason="crash" if outcome is U else "",
                    rewards={"accuracy": float(outcome is C)} if outcome.is_scored else {},
                ),
            )
            for index, outcome in enumerate(outcomes)
        ],
        ledger_position=position,
    )


class Prompts:
    """Admission that answers prompts in order with the given outcomes; records how many each round
    asked for.
    """

    def __init__(self, *outcomes: Sequence[Outcome], first_position: int = 0) -> None:
        self._groups = iter(
            [group(abs(first_position - place), each) for place, each in enumerate(outcomes)]
        )
        self.asked: list[int] = []

    def renew(self, weights: WeightSnapshot) -> None:
        self.asked.append(0)

    def take_oldest(self, weights: WeightSnapshot, limit: int) -> GradedGroup:
        self.asked[-1] += 1
        return next(self._groups)


def gather(
    prompts: Any, *, limit: float = 0.05, graders: Sequence[Any] = ("accuracy",), **rl: Any
) -> RlBatch:
    fields: dict[str, Any] = {
        "prompts_per_step": 2,
        "num_generations": 2,
        "max_resample_rounds": 2,
        **rl,
    }
    reward = RewardSpec.model_validate({"graders": graders, "max_unverifiable_rate": limit})
    return gather_batch(prompts, RlSpec(**fields), reward, WEIGHTS, steps_left=1)


def test_groups_that_all_carry_a_signal_need_no_refill() -> None:
    prompts = Prompts([C, W], [W, C])

    batch = gather(prompts)

    assert prompts.asked == [2]
    assert [item.position for item in batch.kept] == [0, 1]
    assert [sample.advantage for sample in batch.samples()] == [1.0, -1.0, -1.0, 1.0]


def test_groups_without_a_signal_are_dropped_and_only_the_missing_ones_refilled() -> None:
    prompts = Prompts([C, C], [C, W], [W, N], [N, C])

    batch = gather(prompts)

    assert prompts.asked == [2, 1, 1]
    assert [(item.position, item.dropped) for item in batch.groups] == [
        (0, "zero_variance"), (1, None), (2, "zero_variance"), (3, None)
    ]  # fmt: skip
    assert batch.rounds == 3


def test_after_the_last_refill_the_step_trains_on_what_there_is() -> None:
    batch = gather(Prompts([C, W], [C, C], [C, C], [C, C]), min_groups_per_step=1)

    assert [item.position for item in batch.kept] == [0]


def test_fewer_groups_than_the_least_end_the_job() -> None:
    prompts = Prompts([C, W], [C, C], [C, C], [C, C])

    with pytest.raises(PlatformError, match=r"1 of 4 groups .*7 of 8 responses") as caught:
        gather(prompts, min_groups_per_step=2)
    assert caught.value.code == "no_learning_signal"


def test_the_message_tells_the_rewards_and_names_correctness_only_where_it_is_graded() -> None:
    own = {"name": "accuracy", "type": "python", "source": "def grade(sample, item): return 0"}
    with pytest.raises(PlatformError) as caught:
        gather(Prompts([C, C], [W, W], [C, C], [W, W]), graders=[own], max_resample_rounds=1)
    assert "0 of 4 groups have responses of differing reward" in caught.value.message
    assert "the rewards of 8 responses are 0 to 1, 0.5 on the mean." in caught.value.message
    assert "correct" not in caught.value.message


def test_without_dynamic_sampling_equal_groups_are_trained_on() -> None:
    batch = gather(Prompts([C, C], [W, W]), dynamic_sampling="off")

    assert [sample.advantage for sample in batch.samples()] == [0.0] * 4


def test_a_response_that_could_not_be_graded_is_left_out_of_the_samples() -> None:
    batch = gather(Prompts([C, U, W], [C, W, A]), limit=0.5)

    assert [sample.trajectory_id for sample in batch.samples()] == [
        "traj_0_0",
        "traj_0_2",
        "traj_1_0",
        "traj_1_1",
    ]


def test_a_group_with_less_than_two_graded_responses_is_dropped_as_an_error() -> None:
    batch = gather(Prompts([C, U], [C, W], [C, W]), limit=0.5)

    assert [item.dropped for item in batch.groups] == ["error", None, None]


def test_too_many_ungraded_responses_end_the_job_before_the_lack_of_signal_does() -> None:
    with pytest.raises(PlatformError, match=r"Cannot train: 1 of 4 responses .*crash") as caught:
        gather(Prompts([U, C], [C, W]), limit=0.2)
    assert caught.value.code == "reward_error_rate"
    assert isinstance(caught.value, UnverifiableError)
    assert [group.position for group in caught.value.groups] == [0]


def test_abandoned_responses_do_not_count_as_the_verifiers_failure() -> None:
    batch = gather(Prompts([A, C], [C, W], [C, W]), limit=0.0)

    assert [item.dropped for item in batch.groups] == ["error", None, None]


def test_groups_are_ordered_by_ledger_position_whatever_order_they_came_in() -> None:
    batch = gather(Prompts([C, W], [C, W], first_position=7))

    assert [item.position for item in batch.groups] == [6, 7]


def test_reward_metrics_by_hand() -> None:
    batch = gather(Prompts([C, W], [C, C], [W, N], [W, C]), max_resample_rounds=2)

    metrics = batch_metrics(batch, RlSpec(), RewardSpec(), threshold=0.9)

    # Groups: CW, CC, WN, WC -> 4 of 8 correct; one group all right, one all wrong.
    wanted = {
        "reward/mean": 0.5, "reward/std": 0.5, "reward/min": 0.0, "reward/max": 1.0, "reward/accuracy": 0.5,
        "reward/accuracy/mean": 0.5, "reward/pass_at_k": 0.75, "reward/frac_all_correct": 0.25,
        "reward/frac_all_wrong": 0.25, "reward/frac_zero_std": 0.5, "reward/outcome/no_answer": 0.125,
        "rollout/groups": 4.0, "rollout/groups_trained": 2.0, "rollout/resample_rounds": 2.0,
        # Each response: 4 tokens in 3 steps, one block after a prompt of 3 tokens spans two blocks.
        "diffusion/tokens_per_step": 4 / 3, "rollout/response_length_mean": 3.0, "rollout/truncation_rate": 0.0,
        # Every response of a group is the same in this test.
        "rollout/unique_ratio": 0.5,
    }  # fmt: skip
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted)


def test_a_grader_that_scored_nothing_has_a_mean_of_zero_not_none() -> None:
    batch = gather(Prompts([W, W], [W, N]), dynamic_sampling="off")

    metrics = batch_metrics(batch, RlSpec(), RewardSpec(), threshold=0.9)

    assert metrics["reward/accuracy/mean"] == 0.0
