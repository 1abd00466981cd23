import pytest

from services.common.advantages import group_advantages


def test_std_divides_by_the_population_deviation() -> None:
    # 2 of 8 correct: mean 1/4, deviation sqrt(3/16) = 0.4330; (1 − 1/4) / 0.4330 = 1.7321, (0 −
    # 1/4) / 0.4330 = −0.5774
    advantages = group_advantages([1.0, 1.0, 0, 0, 0, 0, 0, 0], "std")

    assert advantages == pytest.approx([1.7320508] * 2 + [-0.5773503] * 6)


def test_mean_subtracts_the_group_mean() -> None:
    # mean of 1, 0, 0.5 is 0.5
    assert group_advantages([1.0, 0.0, 0.5], "mean") == pytest.approx([0.5, -0.5, 0.0])


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    # 1 − (0 + 0.5)/2, 0 − (1 + 0.5)/2, 0.5 − (1 + 0)/2
    assert group_advantages([1.0, 0.0, 0.5], "leave_one_out") == pytest.approx([0.75, -0.75, 0.0])


@pytest.mark.parametrize("baseline", ["std", "mean", "leave_one_out"])
def test_equal_rewards_give_exactly_zero_although_their_computed_deviation_does_not(
    baseline: str,
) -> None:
    # The mean of three 0.1 is 0.10000000000000002 in floating point.
    assert group_advantages([0.1, 0.1, 0.1], baseline) == [0.0, 0.0, 0.0]  # type: ignore[arg-type]


@pytest.mark.parametrize("baseline", ["std", "mean", "leave_one_out"])
def test_unscored_responses_get_no_advantage_and_change_no_other(baseline: str) -> None:
    with_holes = group_advantages([None, 1.0, None, 0.0, 0.0], baseline)  # type: ignore[arg-type]
    without = group_advantages([1.0, 0.0, 0.0], baseline)  # type: ignore[arg-type]

    assert with_holes == [None, without[0], None, without[1], without[2]]


def test_a_lone_response_has_no_leave_one_out_baseline() -> None:
    assert group_advantages([None, 1.0], "leave_one_out") == [None, None]
    assert group_advantages([None, 1.0], "std") == [None, 0.0]
    assert group_advantages([None, None], "std") == [None, None]
