"""Metric series, by a slow obvious implementation."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.series import Point, downsample, surviving


def test_steps_that_a_later_attempt_undid_are_left_out() -> None:
    first = [Point(1, step, 0.0) for step in range(1, 8)]
    second = [Point(2, step, 1.0) for step in (5, 6)]

    # Attempt 2 started from step 4: 5 to 7 of attempt 1 are undone, and 7 was not done again yet.
    steps = [(point.step, point.attempt) for point in surviving([*first, *second], {1: 0, 2: 4})]

    assert steps == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2)]


def test_of_a_step_done_twice_the_newer_attempt_counts_even_when_it_did_not_say_where_it_began() -> (
    None
):
    assert surviving([Point(2, 1, 5.0), Point(1, 1, 3.0)], {}) == [Point(2, 1, 5.0)]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(4, 60))
def test_thinning_keeps_ends_extremes_and_the_bound(values: list[float], limit: int) -> None:
    points = [Point(1, step, value) for step, value in enumerate(values)]

    thin = downsample(points, limit)

    assert len(thin) <= max(limit, 4)
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert {min(values), max(values)} <= {point.value for point in thin}
    assert [point.step for point in thin] == sorted({point.step for point in thin})
