"""What an evaluation states."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import PlatformError
from services.common.job_spec import RewardSpec
from services.common.trajectory import FinishReason, Outcome, Trajectory, Verdict
from services.trainer.learner.evaluation import evaluation_metrics, evaluation_results
from services.trainer.learner.graded_group import GradedGroup
from services.trainer.learner.wilson import wilson_interval
from tests.support.builders import trajectory
from tests.support.learners import graded_group

CORRECTNESS = RewardSpec()
OWN = {"name": "own", "type": "python", "source": "def grade(sample, item): return 1"}


def response(outcome: Outcome, finish: FinishReason = FinishReason.STOP) -> Trajectory:
    rewards = {"accuracy": float(outcome is Outcome.CORRECT)} if outcome.is_scored else {}
    return trajectory(verdict=Verdict(outcome=outcome, rewards=rewards), finish_reason=finish)


def scored(**rewards: float) -> Trajectory:
    return trajectory(verdict=Verdict(outcome=Outcome.SCORED, rewards=rewards))


def group(*responses: Trajectory) -> GradedGroup:
    return graded_group(responses)


def test_the_wilson_interval_of_a_textbook_example() -> None:
    # 8 of 10: centre (0.8 + 3.8415/20) / 1.38415 = 0.7167, half width 0.2267.
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_the_interval_of_no_success_begins_at_zero_and_has_a_width() -> None:
    low, high = wilson_interval(0, 20)

    assert low == 0.0
    assert high == pytest.approx(0.1611252, abs=1e-6)


def test_a_share_of_nothing_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0, 0)


@given(trials=st.integers(1, 2000), share=st.floats(0, 1))
def test_the_interval_holds_the_share_and_stays_within_bounds(trials: int, share: float) -> None:
    low, high = wilson_interval(share * trials, trials)

    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1


def test_ungraded_responses_are_left_out_of_the_accuracy_and_counted() -> None:
    results = evaluation_results(
        [
            group(response(Outcome.CORRECT)),
            group(response(Outcome.INCORRECT)),
            group(response(Outcome.UNVERIFIABLE)),
        ],
        CORRECTNESS,
    )

    assert results["accuracy"] == 0.5
    assert (results["num_prompts"], results["num_prompts_scored"], results["num_unverifiable"]) == (
        3,
        2,
        1,
    )
    assert (results["accuracy_low"], results["accuracy_high"]) == wilson_interval(1, 2)


def test_several_responses_to_a_prompt_are_one_trial() -> None:
    results = evaluation_results(
        [
            group(response(Outcome.CORRECT), response(Outcome.INCORRECT)),
            group(response(Outcome.INCORRECT), response(Outcome.NO_ANSWER)),
        ],
        CORRECTNESS,
    )

    assert (results["accuracy"], results["pass_at_k"], results["num_correct"]) == (0.25, 0.5, 1)
    assert (results["accuracy_low"], results["accuracy_high"]) == wilson_interval(0.5, 2)
    assert (results["pass_at_k_low"], results["pass_at_k_high"]) == wilson_interval(1, 2)


def test_curves_are_named_after_the_number_of_responses_and_by_a_name_without_it() -> None:
    results = evaluation_results(
        [group(response(Outcome.CORRECT), response(Outcome.INCORRECT))], CORRECTNESS
    )

    values = evaluation_metrics({**results, "loss": 1.5})

    named = ("avg@2", "pass@2", "best@2", "accuracy", "reward", "accuracy/mean", "loss")
    assert [values[f"eval/validation/{name}"] for name in named] == [
        0.5,
        1.0,
        1.0,
        0.5,
        0.5,
        0.5,
        1.5,
    ]


def test_a_reward_has_an_interval_over_prompts_and_the_best_of_k() -> None:
    reward = RewardSpec.model_validate({"graders": [{**OWN, "weight": 2}]})
    groups = [group(scored(own=0.0), scored(own=1.0)), group(scored(own=0.25), scored(own=0.25))]

    results = evaluation_results(groups, reward)

    # Means of the prompts: 2·0.5 = 1 and 2·0.25 = 0.5; their sample deviation is 0.353553.
    assert results["reward"] == 0.75
    half = 1.959964 * 0.3535534 / 2**0.5
    assert (results["reward_low"], results["reward_high"]) == pytest.approx(
        (0.75 - half, 0.75 + half)
    )
    assert results["reward_best_at_k"] == 1.25
    assert results["graders"] == {"own": 0.375}
    assert "reward_low" not in evaluation_results(groups[:1], reward)


def test_accuracy_and_success_are_stated_only_where_graders_say_what_they_are() -> None:
    own = RewardSpec.model_validate({"graders": [OWN]})
    results = evaluation_results([group(scored(own=1.0))], own)
    named = ("accuracy", "pass_at_k", "num_correct")
    assert not [name for name in named if name in results]
    assert "eval/validation/avg@1" not in evaluation_metrics(results)

    check = {"name": "s", "type": "string_check", "operation": "eq", "input": "a", "reference": "a"}
    binary = RewardSpec.model_validate({"graders": [OWN, check]})
    results = evaluation_results([group(scored(own=1.0, s=0.0), scored(own=0.0, s=1.0))], binary)
    assert (results["pass_at_k"], "accuracy" in results) == (1.0, False)


def test_lengths_and_speed_leave_out_what_was_abandoned() -> None:
    abandoned = trajectory(
        verdict=Verdict(outcome=Outcome.ABORTED),
        finish_reason=FinishReason.ABORTED,
        visible_len=100,
    )
    results = evaluation_results(
        [group(response(Outcome.TRUNCATED, FinishReason.LENGTH)), group(abandoned)], CORRECTNESS
    )

    # One response of 4 tokens, 3 of them visible, in 3 steps.
    assert results["mean_response_length"] == 3.0
    assert results["tokens_per_step"] == pytest.approx(4 / 3)
    assert results["truncation_rate"] == 1.0
    assert results["outcomes"]["truncated"] == results["outcomes"]["aborted"] == 0.5


def test_an_evaluation_without_a_verdict_is_an_error_not_a_zero() -> None:
    with pytest.raises(PlatformError) as caught:
        evaluation_results([group(response(Outcome.UNVERIFIABLE))], CORRECTNESS)
    assert caught.value.code == "verifier_unavailable"
