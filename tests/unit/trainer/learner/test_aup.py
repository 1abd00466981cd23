"""AUP against the numbers of its definition, and the estimator of pass@k against counting."""

import itertools
import math

import pytest

from services.trainer.learner.aup import compute_aup
from services.trainer.learner.evaluation import estimate_pass_at


def point(speed: float, accuracy: float) -> dict[str, float]:
    return {"tokens_per_step": speed, "accuracy": accuracy}


def test_one_decoding_is_speed_times_accuracy() -> None:
    assert compute_aup([point(2.0, 0.5)]) == pytest.approx(100.0)


def test_equal_accuracy_gives_the_plain_area() -> None:
    assert compute_aup([point(4.0, 0.8), point(1.0, 0.8)]) == pytest.approx(4.0 * 80.0)


def test_lower_accuracy_is_penalised_and_far_lower_left_out() -> None:
    weight = math.exp(-3 * (1 - 76 / 80))
    expected = 80.0 + 0.5 * (80.0 + 76.0 * weight)
    assert compute_aup([point(1.0, 0.8), point(2.0, 0.76)]) == pytest.approx(expected)
    assert compute_aup([point(1.0, 0.8), point(2.0, 0.76), point(9.0, 0.7)]) == pytest.approx(
        expected
    )


def test_successes_count_where_nothing_is_compared_and_rewards_do_not() -> None:
    assert compute_aup([{"tokens_per_step": 2.0, "pass_at": {"1": 0.5}}]) == pytest.approx(100.0)
    assert compute_aup([{"tokens_per_step": 2.0, "reward": 0.5}]) is None
    assert compute_aup([point(1.0, 0.0), point(2.0, 0.0)]) == 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_the_subsets_with_a_success(k: int) -> None:
    responses = [True, False, False, True, False]
    subsets = list(itertools.combinations(responses, k))
    assert estimate_pass_at(k, responses) == pytest.approx(sum(map(any, subsets)) / len(subsets))
