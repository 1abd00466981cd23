"""The scalar reward of a response."""

from typing import Any

import pytest

from services.common.errors import PlatformError
from services.common.grader_spec import parse_grader
from services.common.rewards import compute_rewards
from services.common.trajectory import Outcome, ScoredGroup, Verdict
from services.trainer.learner.graded_group import read_scores
from tests.support.builders import scored_group, trajectory


def _group(*verdicts: Verdict | None) -> ScoredGroup:
    return scored_group(
        trajectories=tuple(
            trajectory(trajectory_id=f"traj_{number}", response_index=number, verdict=verdict)
            for number, verdict in enumerate(verdicts)
        )
    )


def _verdict(outcome: Outcome = Outcome.CORRECT, **rewards: Any) -> Verdict:
    return Verdict(outcome=outcome, rewards=rewards)


def test_the_reward_is_the_weighted_sum_of_the_specs_graders() -> None:
    graders = [parse_grader("accuracy"), parse_grader({"name": "boxed", "weight": 0.2})]
    group = _group(
        _verdict(accuracy=1.0, boxed=0.5),
        _verdict(Outcome.INCORRECT, accuracy=0.0, boxed=1.0, format=9.0),
    )

    # 1·1 + 0.2·0.5; 0 + 0.2·1, a score that was not requested is not added
    rewards = compute_rewards(read_scores(group, graders), graders)
    assert rewards == pytest.approx([1.1, 0.2])


def test_an_unscored_outcome_has_no_reward() -> None:
    group = _group(
        _verdict(Outcome.UNVERIFIABLE), _verdict(Outcome.ABORTED), _verdict(accuracy=1.0)
    )

    scores = read_scores(group, [parse_grader("accuracy")])
    assert scores == [None, None, {"accuracy": 1.0}]


def test_a_missing_score_is_an_error_not_a_zero() -> None:
    with pytest.raises(PlatformError, match=r"traj_1: grader 'format'.*only \['accuracy'\]"):
        read_scores(
            _group(_verdict(accuracy=1.0, format=1.0), _verdict(accuracy=1.0)),
            [parse_grader("format")],
        )


def test_a_response_that_was_never_graded_is_an_error() -> None:
    with pytest.raises(PlatformError, match="traj_0: it was never graded"):
        read_scores(_group(None), [parse_grader("accuracy")])
