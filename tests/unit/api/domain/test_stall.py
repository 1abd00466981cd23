"""How long a phase may be silent."""

from services.api.domain.stall import DEFAULT_BUDGETS_S, GIVE_UP_FACTOR, find_stall, must_give_up


def test_a_phase_may_be_silent_for_its_budget_and_no_longer() -> None:
    budget = DEFAULT_BUDGETS_S["train"]

    assert find_stall("train", None, 1000.0, 1000.0 + budget, {}) is None
    stall = find_stall("train", "rollout", 1000.0, 1001.0 + budget, {})
    assert stall is not None
    assert (stall.phase, stall.waiting_for, stall.since, stall.budget_s) == (
        "train",
        "rollout",
        1000.0,
        budget,
    )


def test_a_budget_of_the_settings_counts_instead_of_the_default() -> None:
    assert find_stall("train", None, 0.0, 11.0, {"train": 10.0}) is not None
    assert find_stall("eval", None, 0.0, 11.0, {"train": 10.0}) is None


def test_a_stalled_attempt_is_given_up_after_several_budgets() -> None:
    stall = find_stall("train", None, 0.0, 11.0, {"train": 10.0})

    assert stall is not None
    assert not must_give_up(stall, 10.0 * GIVE_UP_FACTOR)
    assert must_give_up(stall, 10.0 * GIVE_UP_FACTOR + 1)
