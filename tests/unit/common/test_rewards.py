"""Rewards of a group, and which groups have a learning signal."""

from typing import Any

import pytest

from services.common.job_spec import RewardSpec, RlSpec
from services.common.rewards import (
    compute_rewards,
    compute_signals,
    find_success,
    has_signal,
    keeps_group,
)
from services.common.trajectory import Outcome, Verdict

C, W, N, U, A, S = (
    Outcome.CORRECT, Outcome.INCORRECT, Outcome.NO_ANSWER, Outcome.UNVERIFIABLE, Outcome.ABORTED, Outcome.SCORED,
)  # fmt: skip
OWN = {"name": "own", "type": "python", "source": "def grade(sample, item): return 1"}


def reward_of(*graders: Any, **fields: Any) -> RewardSpec:
    return RewardSpec.model_validate({"graders": graders, **fields})


def test_a_gated_grader_counts_only_where_its_gate_is_met() -> None:
    reward = reward_of("accuracy", {"name": "speed", "weight": 0.5, "only_if": "accuracy"})
    group = [
        {"accuracy": 1.0, "speed": 0.5},
        {"accuracy": 0.0, "speed": 0.5},
        None,
        {"accuracy": -1.0, "speed": 0.5},
    ]
    assert compute_rewards(group, reward.graders) == [1.25, 0.0, None, -1.0]


@pytest.mark.parametrize("gate", ["absent", "speed", "gated"])
def test_a_gate_is_another_grader_without_a_gate(gate: str) -> None:
    gated = {"name": "gated", "type": "boxed", "only_if": "accuracy"}
    with pytest.raises(ValueError, match=f"only_if '{gate}'; it must name another grader"):
        reward_of("accuracy", gated, {"name": "speed", "only_if": gate})


def test_signals_are_the_rewards_or_scores_standardised_by_grader() -> None:
    graders = ("accuracy", {**OWN, "weight": 0.5})
    group = [{"accuracy": 1.0, "own": 100.0}, {"accuracy": 0.0, "own": 300.0}, None]
    assert compute_signals(group, reward_of(*graders)) == [51.0, 150.0, None]
    # Each grader has the values 1 and −1 after standardisation: 1 − 0.5, −1 + 0.5.
    per_grader = reward_of(*graders, normalisation="per_grader")
    assert compute_signals(group, per_grader) == [0.5, -0.5, None]


def test_a_gated_grader_is_standardised_over_the_responses_it_counts_for() -> None:
    own = {**OWN, "only_if": "accuracy"}
    reward = reward_of("accuracy", own, normalisation="per_grader")
    group = [
        {"accuracy": a, "own": o} for a, o in ((1.0, 3.0), (1.0, 1.0), (0.0, 99.0), (0.0, 7.0))
    ]
    # accuracy: ±1; own: ±1 among the correct ones, nothing among the others.
    assert compute_signals(group, reward) == [2.0, 0.0, -1.0, -1.0]


def test_equal_scores_of_a_grader_add_nothing() -> None:
    reward = reward_of("accuracy", OWN, normalisation="per_grader")
    group = [
        {"accuracy": 0.1, "own": 1.0},
        {"accuracy": 0.1, "own": 2.0},
        {"accuracy": 0.1, "own": 3.0},
    ]
    assert compute_signals(group, reward) == pytest.approx([-1.2247449, 0.0, 1.2247449])


@pytest.mark.parametrize(
    ("signals", "min_std", "expected"),
    [
        ([0.0, 1.0], 1e-6, True),
        ([0.5, 0.5, None], 1e-6, False),
        ([0.1, 0.1, 0.1], 0.0, False),  # their computed deviation is 1.4e-17
        ([0.1, 0.1 + 1e-9], 0.0, True),
        ([0.1, 0.1 + 1e-9], 1e-6, False),
        ([0.4, 0.6], 0.1, False),
        ([0.4, 0.7], 0.1, True),
        ([1.0, None], 0.0, False),
        ([None, None], 0.0, False),
        ([], 0.0, False),
    ],
)
def test_a_signal_is_a_deviation_above_the_tolerance(
    signals: list[float | None], min_std: float, expected: bool
) -> None:
    assert has_signal(signals, min_std) is expected


@pytest.mark.parametrize(
    ("signals", "outcomes", "by_reward", "by_correctness"),
    [
        ([1.0, 0.5], [C, C], True, False),  # all correct, and differ in reward
        ([1.0, 1.0], [C, W], False, True),  # correctness varies, the reward does not
        ([1.0, 0.0], [S, S], True, False),
        ([1.0, 0.0], [C, W], True, True),
        ([0.0, 0.0], [W, N], False, False),
        ([1.0, None], [C, U], False, False),
        ([1.0, None, 0.0], [C, A, N], True, True),
    ],
)
def test_dynamic_sampling_looks_at_what_it_is_told_to(
    signals: list[float | None], outcomes: list[Outcome], by_reward: bool, by_correctness: bool
) -> None:
    assert keeps_group(signals, outcomes, RlSpec()) is by_reward
    assert keeps_group(signals, outcomes, RlSpec(dynamic_sampling="correctness")) is by_correctness
    assert keeps_group(signals, outcomes, RlSpec(dynamic_sampling="off"))


@pytest.mark.parametrize(("given", "meant"), [(True, "reward"), (False, "off")])
def test_dynamic_sampling_may_be_a_boolean(given: bool, meant: str) -> None:
    assert RlSpec.model_validate({"dynamic_sampling": given}).dynamic_sampling == meant
    exact = {"preset": "exact", "dynamic_sampling": given}
    if given:
        with pytest.raises(ValueError, match="conflicts with"):
            RlSpec.model_validate(exact)
    else:
        assert RlSpec.model_validate(exact).dynamic_sampling == "off"


def test_success_is_correctness_else_the_first_binary_grader() -> None:
    check = {"name": "s", "type": "string_check", "operation": "eq", "input": "a", "reference": "a"}

    def succeeds(*graders: Any, outcome: Outcome, **rewards: float) -> bool | None:
        succeeded = find_success(reward_of(*graders).graders)
        return succeeded and succeeded(Verdict(outcome=outcome, rewards=rewards))

    assert succeeds(check, "accuracy", outcome=C, s=0.0, accuracy=1.0) is True
    assert succeeds(OWN, check, outcome=S, own=1.0, s=0.0) is False
    assert succeeds(OWN, check, outcome=S, own=0.0, s=1.0) is True
    assert succeeds(OWN, outcome=S, own=1.0) is None
