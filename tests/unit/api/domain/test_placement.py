"""Whose turn it is, and which services a job gets."""

from services.api.domain.placement import (
    FreeServices,
    Need,
    Placement,
    Waiter,
    Waiting,
    fair_order,
    place_all,
)


def test_a_job_gets_the_first_free_trainer_and_as_many_replicas_as_it_needs() -> None:
    free = FreeServices(trainers=["t1", "t2"], replicas=["r1", "r2", "r3"], reward_is_up=True)

    assert place_all([Need("a", 2)], free) == [Placement("a", "t1", ("r1", "r2"))]
    assert (free.trainers, free.replicas) == (["t2"], ["r3"])


def test_a_job_that_decodes_nothing_needs_neither_replicas_nor_reward() -> None:
    free = FreeServices(trainers=["t1"], replicas=[], reward_is_up=False)

    assert place_all([Need("a", 0)], free) == [Placement("a", "t1", ())]


def test_the_missing_service_is_named() -> None:
    def outcome(trainers: list[str], replicas: list[str], reward_is_up: bool) -> object:
        return place_all([Need("a", 1)], FreeServices(trainers, replicas, reward_is_up))[0]

    assert outcome([], ["r1"], True) == Waiting("a", "trainer")
    assert outcome(["t1"], [], True) == Waiting("a", "rollout")
    assert outcome(["t1"], ["r1"], False) == Waiting("a", "reward")


def test_a_younger_job_does_not_take_the_replicas_that_an_older_one_waits_for() -> None:
    free = FreeServices(trainers=["t1", "t2"], replicas=["r1"], reward_is_up=True)

    outcomes = place_all([Need("old", 2), Need("young", 1), Need("without", 0)], free)

    assert outcomes == [
        Waiting("old", "rollout"),
        Waiting("young", "rollout"),
        Placement("without", "t1", ()),
    ]


def test_services_go_to_the_oldest_job_first() -> None:
    free = FreeServices(trainers=["t1"], replicas=["r1", "r2"], reward_is_up=True)

    assert place_all([Need("old", 1), Need("young", 1)], free) == [
        Placement("old", "t1", ("r1",)),
        Waiting("young", "trainer"),
    ]


def test_keys_take_turns_and_a_running_job_counts() -> None:
    waiting = [Waiter(f"a{n}", 0, "a") for n in range(3)] + [
        Waiter(f"b{n}", 0, "b") for n in range(2)
    ]

    assert fair_order(waiting, {}) == ["a0", "b0", "a1", "b1", "a2"]
    assert fair_order(waiting, {"a": 1}) == ["b0", "a0", "b1", "a1", "a2"]


def test_a_higher_priority_goes_first_whatever_its_owner_has() -> None:
    waiting = [Waiter("old", 0, "a"), Waiter("urgent", 5, "b"), Waiter("later", -1, "c")]

    assert fair_order(waiting, {"b": 9}) == ["urgent", "old", "later"]
