"""Whose turn it is, and which services a job gets."""

from services.api.domain.placement import (
    FreeServices,
    Need,
    Placement,
    Share,
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
    assert place_all([Need("a", 1)], FreeServices(["t1"], [], True, leased_replicas=1)) == [
        Waiting("a", "rollout")
    ]
    assert outcome(["t1"], ["r1"], False) == Waiting("a", "reward")


def test_a_younger_job_does_not_take_the_replicas_that_an_older_one_waits_for() -> None:
    free = FreeServices(["t1", "t2"], ["r1"], reward_is_up=True, leased_replicas=1)

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


def test_a_job_that_needs_more_replicas_than_there_are_says_so_and_delays_none() -> None:
    free = FreeServices(["t1"], ["r1"], reward_is_up=True, leased_replicas=1)

    never, placed = place_all([Need("never", 3), Need("later", 1)], free)

    assert isinstance(never, Waiting)
    assert (never.job_id, never.service) == ("never", "rollout")
    assert "needs 3 rollout replicas (resources.rollout_replicas); 2 respond" in str(never.reason)
    assert placed == Placement("later", "t1", ("r1",))


def in_project(project: str, *job_ids: str, key: str = "", priority: int = 0) -> list[Waiter]:
    return [Waiter(job_id, project, key or project, priority) for job_id in job_ids]


def test_keys_of_a_project_take_turns_and_a_running_job_counts() -> None:
    waiting = in_project("p", "a0", "a1", "a2", key="a") + in_project("p", "b0", "b1", key="b")

    assert fair_order(waiting, {}, {}) == ["a0", "b0", "a1", "b1", "a2"]
    assert fair_order(waiting, {}, {"a": Share(running=1)}) == ["b0", "a0", "b1", "a1", "a2"]


def test_within_a_project_a_higher_priority_goes_first_whatever_its_key_has() -> None:
    waiting = [
        *in_project("p", "old", key="a"),
        *in_project("p", "urgent", key="b", priority=5),
        *in_project("p", "later", key="c", priority=-1),
    ]

    assert fair_order(waiting, {}, {"b": Share(running=9)}) == ["urgent", "old", "later"]


def test_projects_take_turns_whatever_the_priorities_of_their_jobs() -> None:
    waiting = in_project("loud", "l0", "l1", "l2", priority=100) + in_project("quiet", "q0", "q1")

    assert fair_order(waiting, {}, {}) == ["l0", "q0", "l1", "q1", "l2"]
    assert fair_order(waiting, {"loud": Share(running=1)}, {})[0] == "q0"


def test_one_trainer_goes_from_project_to_project_though_none_has_a_running_job() -> None:
    """With one trainer nothing runs at the moment of a decision: without a memory of who had it
    last, the project with the older or the more urgent jobs would get it every time.
    """
    queues = {"loud": ["l0", "l1", "l2"], "quiet": ["q0", "q1"]}
    last: dict[str, Share] = {}
    placed = []
    for turn in range(1, 6):
        waiting = in_project("loud", *queues["loud"], priority=100)
        waiting += in_project("quiet", *queues["quiet"])
        first = fair_order(waiting, last, {})[0]
        project = "loud" if first in queues["loud"] else "quiet"
        queues[project].remove(first)
        last[project] = Share(running=0, last_placed_at=float(turn))
        placed.append(first)

    assert placed == ["l0", "q0", "l1", "q1", "l2"]
