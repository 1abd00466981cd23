"""The prompt ledger: every position is accounted for, whatever steps and resumes come."""

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import PlatformError
from services.trainer.learner.ledger import (
    MixedOrder,
    PromptLedger,
    PromptOrder,
    StepRecord,
    from_ranges,
    to_ranges,
)


def record(
    step: int, trained: tuple[int, ...], dropped: dict[int, str] | None = None
) -> StepRecord:
    return StepRecord(stage="rl", step=step, trained=trained, dropped=dropped or {})


def resumed(ledger: PromptLedger) -> PromptLedger:
    return PromptLedger.from_json(json.loads(json.dumps(ledger.to_json())))


@given(num_rows=st.integers(1, 40), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 5))
def test_every_epoch_visits_every_row_once(num_rows: int, seed: int, epoch: int) -> None:
    order = PromptOrder(f"{seed}:rl", num_rows)

    rows = [order.row(epoch * num_rows + place) for place in range(num_rows)]

    assert sorted(rows) == list(range(num_rows))


@given(
    parts=st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 10)), min_size=2, max_size=3),
    length=st.integers(1, 60),
)
def test_a_mixture_keeps_its_proportions_at_every_place_and_visits_each_file_in_epochs(
    parts: list[tuple[int, float]], length: int
) -> None:
    order = MixedOrder("0:sft", parts)
    offsets = [sum(rows for rows, _ in parts[:index]) for index in range(len(parts) + 1)]

    rows = [order.row(position) for position in range(length)]

    for index, (count, weight) in enumerate(parts):
        own = [row for row in rows if offsets[index] <= row < offsets[index + 1]]
        share = weight / sum(weight for _, weight in parts)
        for due in range(1, length + 1):
            taken = sum(offsets[index] <= row < offsets[index + 1] for row in rows[:due])
            assert abs(taken - share * due) < len(parts)
        for start in range(0, len(own) - count + 1, count):
            assert len(set(own[start : start + count])) == count


def test_a_mixtures_order_is_the_same_in_every_release_and_read_from_anywhere() -> None:
    expected = [MixedOrder("7:rl", [(3, 1.0), (4, 2.0)]).row(position) for position in range(9)]

    again = MixedOrder("7:rl", [(3, 1.0), (4, 2.0)])

    assert [again.row(position) for position in (8, 0, 4)] == [
        expected[8],
        expected[0],
        expected[4],
    ]
    assert expected == [6, 2, 3, 5, 0, 4, 3, 1, 5]


def test_the_order_is_the_same_in_every_release() -> None:
    """A changed order would map the positions of every stored ledger to other rows."""
    order = PromptOrder("7:rl", 8)

    assert [order.row(position) for position in range(16)] == [
        3,
        0,
        1,
        2,
        6,
        7,
        5,
        4,
        6,
        2,
        3,
        0,
        4,
        7,
        5,
        1,
    ]


def test_seed_stage_and_epoch_each_change_the_order() -> None:
    def rows(seed: int, stage: str, epoch: int) -> list[int]:
        order = PromptOrder(f"{seed}:{stage}", 50)
        return [order.row(epoch * 50 + place) for place in range(50)]

    orders = {
        tuple(rows(*key)) for key in [(0, "rl", 0), (1, "rl", 0), (0, "sft", 0), (0, "rl", 1)]
    }
    assert len(orders) == 4


def test_an_epoch_can_be_read_again_after_a_later_one() -> None:
    order = PromptOrder("0:rl", 10)
    first = [order.row(position) for position in range(10)]
    order.row(35)

    assert [order.row(position) for position in range(10)] == first


@given(positions=st.sets(st.integers(0, 200)))
def test_ranges_hold_exactly_the_positions(positions: set[int]) -> None:
    ranges = to_ranges(positions)

    assert from_ranges(ranges) == sorted(positions)
    assert all(later[0] > earlier[1] + 1 for earlier, later in itertools.pairwise(ranges))


# What can happen to a step's positions, one letter each: trained, dropped, or the step is abandoned
# as a whole.
steps = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.lists(st.sampled_from("td"), min_size=6, max_size=6),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
)


@given(steps=steps)
def test_whatever_steps_and_resumes_come_every_position_is_closed_once_or_open(
    steps: list[tuple[int, list[str], bool, bool]],
) -> None:
    ledger = PromptLedger()
    closed: Counter[int] = Counter()
    for step, (count, fates, abandoned, resume) in enumerate(steps, start=1):
        positions = ledger.issue(count)
        if abandoned:
            ledger = resumed(ledger)
            continue
        trained = tuple(p for p, fate in zip(positions, fates, strict=False) if fate == "t")
        dropped = {p: "zero_variance" for p in positions if p not in trained}
        ledger.close(record(step, trained, dropped))
        closed.update(positions)
        if resume:
            ledger = resumed(ledger)

    assert all(count == 1 for count in closed.values())
    assert set(range(ledger.next_position)) == set(closed) | ledger.open_positions()
    assert set(closed) == set(ledger.step_by_position()) | set(ledger.reason_by_position())
    assert not ledger.open_positions() & set(closed)


def test_positions_left_open_are_issued_first_after_a_resume() -> None:
    ledger = PromptLedger()
    ledger.issue(4)
    ledger.close(record(1, (0, 2), {1: "zero_variance"}))
    ledger.issue(2)

    again = resumed(ledger)

    assert again.issue(2) == [3, 4]
    assert again.issue(3) == [5, 6, 7]


def test_an_abandoned_step_is_repeated_as_it_was() -> None:
    ledger = PromptLedger()
    first_round, refill = ledger.issue(3), ledger.issue(2)

    again = resumed(ledger)

    assert (again.issue(3), again.issue(2)) == (first_round, refill)


def test_what_was_trained_and_dropped_survives_the_checkpoint() -> None:
    ledger = PromptLedger()
    ledger.issue(5)
    ledger.close(record(3, (0, 4), {2: "error"}))

    again = resumed(ledger)

    assert (again.step_by_position(), again.reason_by_position(), again.open_positions()) == (
        {0: 3, 4: 3},
        {2: "error"},
        frozenset({1, 3}),
    )


def test_a_position_cannot_be_closed_twice_or_without_being_issued() -> None:
    ledger = PromptLedger()
    ledger.issue(1)
    ledger.close(record(1, (0,)))

    for position in (0, 1):
        with pytest.raises(ValueError, match=f"position {position} is not open"):
            ledger.close(record(2, (position,)))


def test_a_damaged_ledger_is_refused() -> None:
    with pytest.raises(PlatformError, match="Cannot read the prompt ledger: ") as caught:
        PromptLedger.from_json({"next": 3, "trained": [[1]], "dropped": {}, "open": []})
    assert caught.value.code == "checkpoint_invalid"


def test_the_stored_form_grows_with_the_steps_not_with_the_prompts() -> None:
    ledger = PromptLedger()
    for step in range(1, 101):
        ledger.close(record(step, tuple(ledger.issue(1000))))

    assert len(json.dumps(ledger.to_json())) < 100 * 30


def test_the_next_place_is_of_the_file_that_is_furthest_behind_its_share() -> None:
    order = MixedOrder("0:sft", [(10, 1.0), (10, 4.0)])

    # At the third place 0.6 rows of the first file are due, and 2.4 - 2 of the second.
    assert [order.row(position) // 10 for position in range(10)] == [1, 1, 0, 1, 1, 1, 1, 0, 1, 1]


def test_an_order_needs_rows_and_positions_are_not_negative() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        PromptOrder("0:rl", 0)
    for order in (PromptOrder("0:rl", 3), MixedOrder("0:rl", [(3, 1.0)])):
        with pytest.raises(ValueError, match="position -1 is negative"):
            order.row(-1)
