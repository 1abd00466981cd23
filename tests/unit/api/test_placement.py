"""Who gets which service."""

from services.api.domain.placement import FreeServices, Need, Placement, Waiting, place_all


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
