"""The streams of the data plane over a real server."""

import time
from collections.abc import Iterator

import pytest
import redis

from services.common.codec import group_to_pb
from services.common.errors import PlatformError
from services.common.events import Event, EventType
from services.common.streams import (
    EventConsumer,
    EventQueue,
    GroupConsumer,
    GroupQueue,
    PromptConsumer,
    PromptQueue,
    connect,
    delete_streams,
    stream_names,
)
from tests.support.builders import prompt_task, scored_group
from tests.support.servers import free_port, running_valkey

NAMES = stream_names("job_1", 1)
LEASE_MS = 60
LONG_MS = 60_000


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url) as connection:
        yield connection


def issue(client: redis.Redis, *group_ids: str) -> None:
    for group_id in group_ids:
        PromptQueue(client, NAMES.prompts).add(prompt_task(group_id=group_id))


def consumer(client: redis.Redis, name: str, lease_ms: int = LONG_MS) -> PromptConsumer:
    return PromptConsumer(client, NAMES.prompts, name, lease_ms)


def group_of(group_id: str):
    return scored_group(group_id=group_id)


def event(seq: int) -> Event:
    return Event(
        job_id="job_1",
        attempt=1,
        seq=seq,
        type=EventType.PHASE,
        time=1.0,
        data={"phase": "rollout"},
    )


def let_the_lease_lapse() -> None:
    time.sleep(LEASE_MS / 1000 * 1.5)


def test_streams_belong_to_an_attempt() -> None:
    assert stream_names("job_9", 2).prompts == "dirl:job_9:2:prompts"
    assert stream_names("job_9", 2).groups == "dirl:job_9:2:groups"


def test_prompts_are_taken_in_the_order_of_issue_also_those_from_before_the_consumer(
    client: redis.Redis,
) -> None:
    issue(client, "a", "b", "c")
    replica = consumer(client, "r0")

    assert [item.value.group_id for item in replica.take(2, 0)] == ["a", "b"]
    assert [item.value.group_id for item in replica.take(2, 0)] == ["c"]
    assert replica.take(2, 0) == []


def test_a_leased_prompt_is_given_to_nobody_else(client: redis.Redis) -> None:
    issue(client, "a")
    first, second = consumer(client, "r0"), consumer(client, "r1")
    first.take(1, 0)

    assert second.take(1, 0) == []


def test_a_dead_replicas_prompt_goes_to_another_one_before_new_prompts(client: redis.Redis) -> None:
    issue(client, "a", "b")
    consumer(client, "dead", LEASE_MS).take(1, 0)
    let_the_lease_lapse()

    taken = consumer(client, "alive", LEASE_MS).take(2, 0)

    assert [item.value.group_id for item in taken] == ["a", "b"]


def test_a_renewed_prompt_stays_with_its_replica(client: redis.Redis) -> None:
    issue(client, "a")
    slow, other = consumer(client, "slow", 400), consumer(client, "other", 400)
    (leased,) = slow.take(1, 0)

    for _ in range(6):
        time.sleep(0.1)
        slow.renew([leased.entry_id])
        assert other.take(1, 0) == []


def test_a_replica_never_gets_a_prompt_twice_that_it_holds(client: redis.Redis) -> None:
    issue(client, "a")
    replica = consumer(client, "r0", LEASE_MS)
    replica.take(1, 0)
    let_the_lease_lapse()

    assert replica.take(1, 0) == []


def test_a_prompt_given_back_is_taken_by_another_replica_at_once(client: redis.Redis) -> None:
    issue(client, "a")
    leaving = consumer(client, "leaving")
    leaving.give_back([item.entry_id for item in leaving.take(1, 0)])

    assert [item.value.group_id for item in consumer(client, "staying").take(1, 0)] == ["a"]


def test_an_acknowledged_prompt_leaves_the_stream(client: redis.Redis) -> None:
    issue(client, "a")
    replica = consumer(client, "r0", LEASE_MS)
    replica.ack([replica.take(1, 0)[0].entry_id])
    let_the_lease_lapse()

    assert client.xlen(NAMES.prompts) == 0
    assert consumer(client, "r1", LEASE_MS).take(1, 0) == []


def test_an_answer_appends_the_group_and_removes_the_prompt(client: redis.Redis) -> None:
    issue(client, "a")
    replica, groups = consumer(client, "r0"), GroupQueue(client, NAMES.groups)
    (leased,) = replica.take(1, 0)

    assert replica.answer(leased.entry_id, groups, group_of("a"))

    assert [group.group_id for group in GroupConsumer(client, NAMES.groups).take(0)] == ["a"]
    assert client.xlen(NAMES.prompts) == 0


def test_of_two_replicas_that_answer_one_prompt_only_the_first_counts(client: redis.Redis) -> None:
    """A replica that was too slow to renew finishes after the one that took over: the group must
    not come twice.
    """
    issue(client, "a")
    slow, fast = consumer(client, "slow", LEASE_MS), consumer(client, "fast", LEASE_MS)
    (held,) = slow.take(1, 0)
    let_the_lease_lapse()
    (claimed,) = fast.take(1, 0)
    groups = GroupQueue(client, NAMES.groups)

    assert fast.answer(claimed.entry_id, groups, group_of("a"))
    assert not slow.answer(held.entry_id, groups, group_of("a"))

    assert client.xlen(NAMES.groups) == 1


def test_renewing_an_answered_prompt_does_not_bring_it_back(client: redis.Redis) -> None:
    issue(client, "a")
    replica = consumer(client, "r0", LEASE_MS)
    (leased,) = replica.take(1, 0)
    replica.answer(leased.entry_id, GroupQueue(client, NAMES.groups), group_of("a"))

    replica.renew([leased.entry_id])
    let_the_lease_lapse()

    assert consumer(client, "r1", LEASE_MS).take(1, 0) == []


def test_groups_arrive_once_in_order_and_leave_nothing_behind(client: redis.Redis) -> None:
    for group_id in ("a", "b"):
        GroupQueue(client, NAMES.groups).add(group_of(group_id))
    learner = GroupConsumer(client, NAMES.groups)

    assert [group.group_id for group in learner.take(0)] == ["a", "b"]
    assert learner.take(1) == []
    assert client.xlen(NAMES.groups) == 0


def test_a_waiting_learner_is_woken_by_a_group(client: redis.Redis) -> None:
    learner = GroupConsumer(client, NAMES.groups)
    GroupQueue(client, NAMES.groups).add(group_of("a"))

    assert len(learner.take(block_ms=20_000)) == 1


def test_events_are_delivered_until_they_are_acknowledged(client: redis.Redis) -> None:
    for seq in (1, 2):
        EventQueue(client).send(event(seq))
    recorder = EventConsumer(client, "recorder-0", LEASE_MS)
    first = recorder.take(10, 0)
    recorder.ack([first[0].entry_id])
    let_the_lease_lapse()

    again = EventConsumer(client, "recorder-0", LEASE_MS).take(10, 0)

    assert [item.value.seq for item in first] == [1, 2]
    assert [item.value for item in again] == [event(2)]


def test_a_recorder_gets_an_event_again_that_it_failed_to_store(client: redis.Redis) -> None:
    EventQueue(client).send(event(1))
    recorder = EventConsumer(client, "recorder-0", LEASE_MS)
    recorder.take(1, 0)
    let_the_lease_lapse()

    assert [item.value.seq for item in recorder.take(1, 0)] == [1]


def test_acknowledged_events_leave_the_stream(client: redis.Redis) -> None:
    EventQueue(client).send(event(1))
    recorder = EventConsumer(client, "recorder-0")
    recorder.ack([item.entry_id for item in recorder.take(1, 0)])

    assert client.xlen("dirl:events") == 0


def test_entries_that_are_no_events_are_dropped_and_cost_nobody_else(client: redis.Redis) -> None:
    client.xadd("dirl:events", {"m": b"\x00 no event"})
    EventQueue(client).send(event(1))
    client.xadd("dirl:events", {"x": b"no field of ours"})

    taken = EventConsumer(client, "recorder-0").take(10, 0)

    assert [item.value for item in taken] == [event(1)]
    assert client.xlen("dirl:events") == 1
    assert client.xpending("dirl:events", "recorder")["pending"] == 1


def test_a_lost_consumer_group_is_made_again_and_costs_no_work(
    client: redis.Redis,
) -> None:
    queue, replica = PromptQueue(client, NAMES.prompts), consumer(client, "r0")
    issue(client, "a", "b")
    (held,) = replica.take(1, 0)
    client.xgroup_destroy(NAMES.prompts, "rollout")

    with pytest.raises(PlatformError, match="consumer group is missing in Redis") as raised:
        replica.take(1, 0)
    assert raised.value.code == "queue_unavailable"
    assert queue.ensure_group()
    assert not queue.ensure_group()

    # What the replica decodes counts, though the new group has not delivered it yet.
    assert replica.answer(held.entry_id, GroupQueue(client, NAMES.groups), group_of("a"))
    assert client.xlen(NAMES.groups) == 1
    assert [item.value.group_id for item in consumer(client, "r1").take(2, 0)] == ["b"]


def test_entries_that_are_not_in_the_stream_are_found(client: redis.Redis) -> None:
    queue, replica = PromptQueue(client, NAMES.prompts), consumer(client, "r0")
    first, second, third = (queue.add(prompt_task(group_id=name)) for name in ("a", "b", "c"))
    replica.take(1, 0)
    replica.answer(first, GroupQueue(client, NAMES.groups), group_of("a"))
    client.xdel(NAMES.prompts, second)

    assert queue.find_missing([first, second, third]) == {first, second}
    assert queue.find_missing([]) == set()


def test_groups_of_a_stream_that_was_made_anew_are_taken_whatever_their_ids(
    client: redis.Redis,
) -> None:
    learner = GroupConsumer(client, NAMES.groups)
    GroupQueue(client, NAMES.groups).add(group_of("a"))
    learner.take(0)
    client.delete(NAMES.groups)

    # The clock of another server, or of a failover, may be behind.
    client.xadd(NAMES.groups, {"m": group_to_pb(group_of("b")).SerializeToString()}, id="1-1")

    assert [group.group_id for group in learner.take(0)] == ["b"]


def test_entries_that_are_no_groups_are_dropped_with_a_sentence_and_cost_no_group(
    client: redis.Redis,
) -> None:
    refused: list[str] = []
    learner = GroupConsumer(client, NAMES.groups, refused.append)
    client.xadd(NAMES.groups, {"m": b"\xff no group"})
    GroupQueue(client, NAMES.groups).add(group_of("a"))
    client.xadd(NAMES.groups, {"x": b"no field of ours"})

    taken = learner.take(0)

    assert [group.group_id for group in taken] == ["a"]
    assert client.xlen(NAMES.groups) == 0
    assert len(refused) == 2
    assert "is not a graded group (DecodeError" in refused[0]
    assert "is not a graded group (KeyError" in refused[1]


def test_deleting_streams_deletes_those_of_the_attempt_only(client: redis.Redis) -> None:
    issue(client, "a")
    PromptQueue(client, stream_names("job_1", 2).prompts).add(prompt_task())

    delete_streams(client, "job_1", 1)
    delete_streams(client, "job_1", 1)

    assert client.keys("dirl:*") == [b"dirl:job_1:2:prompts"]


def test_a_deleted_stream_is_an_error_for_its_consumers_and_not_an_empty_one(
    client: redis.Redis,
) -> None:
    replica = consumer(client, "r0")
    delete_streams(client, "job_1", 1)

    with pytest.raises(PlatformError) as raised:
        replica.take(1, 0)
    assert raised.value.code == "queue_unavailable"


def test_a_server_that_is_not_there_is_queue_unavailable() -> None:
    with (
        connect(f"redis://127.0.0.1:{free_port()}/0") as client,
        pytest.raises(PlatformError) as raised,
    ):
        PromptQueue(client, NAMES.prompts).add(prompt_task())

    assert raised.value.code == "queue_unavailable"
    assert raised.value.retryable
    assert NAMES.prompts in str(raised.value)


def test_a_server_lost_in_between_is_queue_unavailable_at_both_ends() -> None:
    with running_valkey() as server, connect(f"{server.connection_url}/0") as client:
        replica, learner = consumer(client, "r0"), GroupConsumer(client, NAMES.groups)
        server.terminate()

        for use in (
            lambda: replica.take(1, 0),
            lambda: learner.take(10),
            lambda: replica.renew(["1-1"]),
        ):
            with pytest.raises(PlatformError) as raised:
                use()
            assert raised.value.code == "queue_unavailable"
