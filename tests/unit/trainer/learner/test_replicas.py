"""Watching replicas and getting them weights: scripted replicas behind real gRPC."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import torch

from services.common.errors import PlatformError
from services.common.events import Event, EventType
from services.common.weights import weight_digest
from services.trainer.learner.journal import Journal, Reporter
from services.trainer.learner.replicas import Replicas
from services.trainer.learner.weight_snapshot import WeightSnapshot
from services.trainer.learner.weight_sync import publish
from tests.support.replicas import ScriptedReplica, serving
from tests.support.servers import free_address
from tests.support.trainer import of_kind

TENSORS = {"w": torch.arange(6.0).reshape(2, 3)}


class Sink:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def send(self, event: Event) -> None:
        self.events.append(event)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """Replicas of job_1 attempt 1, a clock to turn, and what was said."""

    def __init__(self, directory: Path, addresses: list[str]) -> None:
        self.clock, self.sink = Clock(), Sink()
        self.journal = Journal(directory, "job_1", 1, self.sink)
        self.replicas = Replicas(addresses, "job_1", 1, Reporter(self.journal), clock=self.clock)

    def close(self) -> None:
        self.replicas.close()
        self.journal.close()

    def codes(self) -> list[str]:
        return [data["code"] for data in of_kind(self.sink.events, EventType.LOG)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def watched(stack: ExitStack, directory: Path, *replicas: ScriptedReplica | None) -> Watched:
    """None stands for a replica that is not there."""
    addresses = [
        free_address() if each is None else stack.enter_context(serving(each)) for each in replicas
    ]
    return stack.enter_context(closing(Watched(directory, addresses)))


def version(number: int) -> WeightSnapshot:
    return WeightSnapshot(number, TENSORS)


def test_a_version_reaches_every_replica_once(stack: ExitStack, tmp_path: Path) -> None:
    one, two = ScriptedReplica(), ScriptedReplica()
    replicas = watched(stack, tmp_path, one, two).replicas

    assert replicas.supply(version(3)) == 2
    assert replicas.supply(version(3)) == 2

    assert (one.pushed, two.pushed) == ([3], [3])


def test_a_replica_that_was_restarted_gets_the_weights_again(
    stack: ExitStack, tmp_path: Path
) -> None:
    one, two = ScriptedReplica(), ScriptedReplica()
    watcher = watched(stack, tmp_path, one, two)
    watcher.replicas.supply(version(3))

    two.weight_version, two.state = -1, "waiting_for_weights"
    watcher.clock.now += 3
    watcher.replicas.watch(version(3), overlapped=False)

    assert (one.pushed, two.pushed) == ([3], [3, 3])


def test_an_unhealthy_replica_gets_the_weights_again(stack: ExitStack, tmp_path: Path) -> None:
    one = ScriptedReplica()
    replicas = watched(stack, tmp_path, one).replicas
    replicas.supply(version(3))

    one.state = "unhealthy"
    replicas.supply(version(3))

    assert one.pushed == [3, 3]


@pytest.mark.parametrize(
    "other",
    [
        ScriptedReplica(job_id="job_2"),
        ScriptedReplica(attempt=2),
        ScriptedReplica(job_id="", state="idle"),
    ],
)
def test_a_replica_of_another_attempt_is_left_alone(
    stack: ExitStack, tmp_path: Path, other: ScriptedReplica
) -> None:
    replicas = watched(stack, tmp_path, other).replicas

    assert replicas.supply(version(1)) == 0
    assert other.pushed == []


def test_a_replica_that_still_loads_is_waited_for(stack: ExitStack, tmp_path: Path) -> None:
    loading = ScriptedReplica(state="loading")
    watcher = watched(stack, tmp_path, loading)

    watcher.clock.now += 61
    assert watcher.replicas.supply(version(1)) == 0

    assert loading.pushed == []


def test_one_replica_continues_while_another_one_is_lost(stack: ExitStack, tmp_path: Path) -> None:
    alive = ScriptedReplica()
    watcher = watched(stack, tmp_path, alive, None)

    watcher.clock.now += 120

    assert watcher.replicas.supply(version(1)) == 1


def test_after_a_minute_without_any_replica_the_attempt_ends(
    stack: ExitStack, tmp_path: Path
) -> None:
    watcher = watched(stack, tmp_path, None)

    watcher.clock.now = 59
    assert watcher.replicas.supply(version(1)) == 0
    watcher.clock.now = 61
    with pytest.raises(PlatformError, match="UNAVAILABLE") as caught:
        watcher.replicas.supply(version(1))
    assert (caught.value.code, caught.value.retryable) == ("rollout_unavailable", True)


def test_replicas_that_answer_but_generate_nothing_end_the_attempt_too(
    stack: ExitStack, tmp_path: Path
) -> None:
    stuck = ScriptedReplica(weight_version=1, state="ready")
    watcher = watched(stack, tmp_path, stuck)
    watcher.replicas.supply(version(1))

    watcher.clock.now = 599
    stuck.generated_tokens = 8
    watcher.replicas.watch(version(1), overlapped=False)
    watcher.clock.now = 599 + 599
    watcher.replicas.watch(version(1), overlapped=False)
    watcher.clock.now += 3

    with pytest.raises(PlatformError) as caught:
        watcher.replicas.watch(version(1), overlapped=False)
    assert (caught.value.code, caught.value.retryable) == ("deadline_exceeded", True)


def test_a_replica_that_refuses_every_push_ends_the_attempt_with_its_reason(
    stack: ExitStack, tmp_path: Path
) -> None:
    broken = ScriptedReplica(refusal=PlatformError("weight_digest_mismatch", "The bytes differ."))
    watcher = watched(stack, tmp_path, broken)

    for _ in range(4):
        assert watcher.replicas.supply(version(1)) == 0
    with pytest.raises(PlatformError, match="The bytes differ") as caught:
        watcher.replicas.supply(version(1))

    assert caught.value.code == "weight_digest_mismatch"
    assert watcher.codes() == ["weight_digest_mismatch"] * 5


def test_weights_that_are_renewed_overlapped_are_those_of_the_moment(
    stack: ExitStack, tmp_path: Path
) -> None:
    replica = ScriptedReplica(held=threading.Event())
    watcher = watched(stack, tmp_path, replica)
    live = torch.zeros(3)

    watcher.replicas.renew(WeightSnapshot(1, {"w": live}))
    live += 1  # training continues while version 1 is sent
    watcher.replicas.renew(WeightSnapshot(2, {"w": live}))
    replica.held.set()
    while replica.pushed != [1, 2]:
        watcher.replicas.renew(WeightSnapshot(2, {"w": live}))
    watcher.replicas.supply(WeightSnapshot(2, {"w": live}))

    assert replica.pushed == [1, 2]
    assert [tensors["w"].tolist() for tensors in replica.received] == [[0.0] * 3, [1.0] * 3]
    assert watcher.replicas.last_publication is not None
    assert watcher.replicas.last_publication.weight_version == 2


def test_a_replica_that_did_not_reproduce_a_version_waits_for_the_next_one(
    stack: ExitStack, tmp_path: Path
) -> None:
    good, odd = (
        ScriptedReplica(),
        ScriptedReplica(refusal=PlatformError("parity_violation", "Off by 3.")),
    )
    watcher = watched(stack, tmp_path, good, odd)

    assert [watcher.replicas.supply(version(number)) for number in (1, 1, 2)] == [1, 1, 1]

    assert (odd.pushed, watcher.codes()) == ([1, 2], ["parity_violation"] * 2)


def test_a_publication_states_digest_bytes_and_who_has_it(stack: ExitStack) -> None:
    good, bad = (
        ScriptedReplica(),
        ScriptedReplica(refusal=PlatformError("stale_attempt", "Not yours.")),
    )
    addresses = [stack.enter_context(serving(replica)) for replica in (good, bad)]

    publication = publish(addresses, "job_1", 1, 7, TENSORS)

    assert (publication.weight_digest, publication.num_bytes) == (weight_digest(TENSORS), 24)
    assert publication.loaded == (addresses[0],)
    assert publication.failed[addresses[1]].code == "stale_attempt"


def test_a_replica_that_holds_other_weights_than_it_was_sent_is_reported(stack: ExitStack) -> None:
    address = stack.enter_context(serving(ScriptedReplica(digest="0" * 64)))

    publication = publish([address], "job_1", 1, 7, TENSORS)

    assert publication.loaded == ()
    assert publication.failed[address].code == "weight_digest_mismatch"
