"""Redis streams of the data plane: prompts and scored groups of an attempt, and the platform's
events.

Every entry has one field, `m`, with the message's bytes. Prompts are leased: an entry stays pending
until it is answered, and one whose consumer has not renewed it for the length of a lease is given to
another consumer.

Streams are disposable. A prompt in flight is an entry of the prompts stream or has its group in the
groups stream, because a replica moves it from one to the other in one atomic step. What is in
neither was lost with Redis (FLUSHALL, eviction, a restart), and its learner issues it again
(services/trainer/learner/rollouts.py).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

import redis
from google.protobuf.message import DecodeError
from pydantic import ValidationError
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.common.codec import group_from_pb, group_to_pb, task_from_pb, task_to_pb
from services.common.errors import PlatformError
from services.common.events import EVENTS_STREAM, Event
from services.common.pb.dirl.v1 import types_pb2
from services.common.telemetry.logs import get_logger
from services.common.trajectory import PromptTask, ScoredGroup

_FIELD: Final = b"m"
_ROLLOUT: Final = "rollout"
_RECORDER: Final = "recorder"
_EVENTS_LEASE_MS: Final = 10_000
_MAX_EVENTS: Final = 100_000
_GROUPS_PER_READ: Final = 16
_CONNECT_S: Final = 5.0
# Longer than any blocking read, and short enough that a server that hangs is noticed.
_SOCKET_S: Final = 10.0

# The first answer counts: the replica that deletes the entry appends the group in the same atomic
# step, and a second one appends nothing. The entry decides and not the consumer group's list of
# pending entries, which XGROUP DESTROY empties while replicas decode.
_ANSWER: Final = """
if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XADD', KEYS[2], '*', 'm', ARGV[3])
return 1
"""
# In the server, because XRANGE would send the prompts of every entry that still exists.
_FIND_MISSING: Final = """
local missing = {}
for _, id in ipairs(ARGV) do
    if #redis.call('XRANGE', KEYS[1], id, id) == 0 then missing[#missing + 1] = id end
end
return missing
"""

log = get_logger()

T = TypeVar("T")
Entry = tuple[bytes, Mapping[bytes, bytes]]


@dataclass(frozen=True)
class StreamNames:
    """The streams of one attempt."""

    prompts: str
    groups: str


@dataclass(frozen=True)
class Leased(Generic[T]):
    """A value taken from a stream, and the entry to acknowledge."""

    entry_id: str
    value: T


def connect(redis_url: str) -> redis.Redis:
    """Client for the streams: bytes in and out, bounded waits, no silent repetition of a write."""
    return redis.Redis.from_url(
        redis_url,
        protocol=2,
        socket_timeout=_SOCKET_S,
        socket_connect_timeout=_CONNECT_S,
        retry=Retry(NoBackoff(), 0),
    )


def stream_names(job_id: str, attempt: int) -> StreamNames:
    """Names of an attempt's streams."""
    return StreamNames(
        prompts=f"dirl:{job_id}:{attempt}:prompts", groups=f"dirl:{job_id}:{attempt}:groups"
    )


def delete_streams(client: redis.Redis, job_id: str, attempt: int) -> None:
    """Delete an attempt's streams; deleting them twice does nothing."""
    names = stream_names(job_id, attempt)
    with _redis_errors(f"delete the streams of {job_id} attempt {attempt}"):
        client.unlink(names.prompts, names.groups)


@contextmanager
def _redis_errors(what: str) -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        if str(error).startswith("NOGROUP"):
            raise PlatformError(
                "queue_unavailable",
                f"Cannot {what}: the stream or its consumer group is missing in Redis: {error}.",
                hint="FLUSHALL, XGROUP DESTROY or an eviction removed it; its learner makes it again within seconds.",
            ) from error
        raise PlatformError(
            "queue_unavailable",
            f"Cannot {what}: {type(error).__name__}: {error}.",
            hint="Check that the server at DIRL_REDIS_URL runs, is reachable and has memory left.",
        ) from error


def _ensure_group(client: redis.Redis, stream: str, group: str) -> bool:
    """Create the stream and its consumer group unless they exist; returns whether they had to be.

    The group begins at the first entry, so that nothing in the stream is left out.
    """
    with _redis_errors(f"create consumer group {group!r} of {stream}"):
        try:
            client.xgroup_create(stream, group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            return False
    return True


class _ConsumerGroup:
    """One consumer of a stream's consumer group, with leases."""

    def __init__(
        self, client: redis.Redis, stream: str, group: str, consumer: str, lease_ms: int
    ) -> None:
        self.client, self.stream, self.group, self.consumer, self.lease_ms = (
            client,
            stream,
            group,
            consumer,
            lease_ms,
        )
        self._claim_cursor = "0-0"
        self._next_claim = 0.0
        _ensure_group(client, stream, group)

    def take(self, count: int, block_ms: int) -> list[Entry]:
        """Up to `count` entries: those of consumers whose lease ran out, then new ones; waits
        `block_ms` for the first.

        0 does not wait. Looks for lapsed leases once per quarter of a lease.
        """
        with _redis_errors(f"take from {self.stream}"):
            entries = self._claim(count)
            if len(entries) < count:
                entries += self._read(count - len(entries), 0 if entries else block_ms)
        return entries

    def _claim(self, count: int) -> list[Entry]:
        now = time.monotonic()
        if now < self._next_claim:
            return []
        reply = self.client.xautoclaim(
            self.stream,
            self.group,
            self.consumer,
            self.lease_ms,
            start_id=self._claim_cursor,
            count=count,
        )
        self._claim_cursor = reply[0]
        if len(reply[1]) < count:
            self._next_claim = now + self.lease_ms / 4000
        return list(reply[1])

    def _read(self, count: int, block_ms: int) -> list[Entry]:
        reply = cast(
            list[tuple[bytes, list[Entry]]],
            self.client.xreadgroup(
                self.group,
                self.consumer,
                {self.stream: ">"},
                count=count,
                block=block_ms if block_ms > 0 else None,
            ),
        )
        return list(reply[0][1]) if reply else []

    def claim_own(self, entry_ids: Sequence[str], idle_ms: int) -> None:
        """Set how long the entries count as untouched; 0 starts their lease anew."""
        if entry_ids:
            with _redis_errors(f"renew {len(entry_ids)} entries of {self.stream}"):
                self.client.xclaim(
                    self.stream,
                    self.group,
                    self.consumer,
                    0,
                    list(entry_ids),
                    idle=idle_ms,
                    justid=True,
                )

    def ack(self, entry_ids: Sequence[str]) -> None:
        """Acknowledge and delete."""
        if entry_ids:
            with (
                _redis_errors(f"acknowledge {len(entry_ids)} entries of {self.stream}"),
                self.client.pipeline() as pipe,
            ):
                pipe.xack(self.stream, self.group, *entry_ids)
                pipe.xdel(self.stream, *entry_ids)
                pipe.execute()


class PromptQueue:
    """The learner's end of the prompts stream."""

    def __init__(self, client: redis.Redis, stream: str) -> None:
        """Raises PlatformError `queue_unavailable`."""
        self._client, self._stream = client, stream
        self.ensure_group()

    def add(self, task: PromptTask) -> str:
        """Append, and return the id of the entry; admission control of the learner bounds the
        stream.
        """
        return _append(self._client, self._stream, task_to_pb(task).SerializeToString())

    def ensure_group(self) -> bool:
        """Make the stream and the replicas' consumer group unless they exist; returns whether they
        had to be made.
        """
        return _ensure_group(self._client, self._stream, _ROLLOUT)

    def find_missing(self, entry_ids: Sequence[str]) -> set[str]:
        """Return those of the entries that are not in the stream: answered, or lost."""
        with _redis_errors(f"look for {len(entry_ids)} entries of {self._stream}"):
            missing = self._client.eval(_FIND_MISSING, 1, self._stream, *entry_ids)
        return {entry_id.decode() for entry_id in cast(list[bytes], missing)}


class PromptConsumer:
    """A replica's end of the prompts stream. Creates the consumer group when it is not there."""

    def __init__(self, client: redis.Redis, stream: str, consumer: str, lease_ms: int) -> None:
        self._group = _ConsumerGroup(client, stream, _ROLLOUT, consumer, lease_ms)
        self._held: set[str] = set()

    def take(self, count: int, block_ms: int) -> list[Leased[PromptTask]]:
        """Up to `count` prompts, those of dead replicas first; waits up to `block_ms` milliseconds
        for the first.

        A prompt this consumer holds already is never returned again.
        """
        leased = [
            Leased(entry_id, task_from_pb(types_pb2.PromptTask.FromString(data)))
            for entry_id, data in _messages(self._group.take(count, block_ms))
            if entry_id not in self._held
        ]
        self._held.update(item.entry_id for item in leased)
        return leased

    def renew(self, entry_ids: Sequence[str]) -> None:
        """Start the lease of these entries anew; entries that were answered meanwhile are ignored."""
        self._group.claim_own(entry_ids, idle_ms=0)

    def give_back(self, entry_ids: Sequence[str]) -> None:
        """Let another consumer have these entries at once."""
        self._group.claim_own(entry_ids, idle_ms=self._group.lease_ms)
        self._held.difference_update(entry_ids)

    def ack(self, entry_ids: Sequence[str]) -> None:
        """Acknowledge and delete; only after the groups were appended. A replica uses `answer`,
        which does both.
        """
        self._group.ack(entry_ids)
        self._held.difference_update(entry_ids)

    def answer(self, entry_id: str, groups: "GroupQueue", group: ScoredGroup) -> bool:
        """Append the group and acknowledge the prompt in one atomic step.

        False when the prompt was answered by another replica (the lease had run out): then nothing
        is appended.
        """
        message = group_to_pb(group).SerializeToString()
        with _redis_errors(f"answer {group.group_id}"):
            appended = self._group.client.eval(
                _ANSWER, 2, self._group.stream, groups.stream, self._group.group, entry_id, message
            )
        self._held.discard(entry_id)
        return bool(appended)


class GroupQueue:
    """The replicas' end of the groups stream."""

    def __init__(self, client: redis.Redis, stream: str) -> None:
        self._client, self.stream = client, stream

    def add(self, group: ScoredGroup) -> None:
        """Append without a prompt to acknowledge."""
        _append(self._client, self.stream, group_to_pb(group).SerializeToString())


class GroupConsumer:
    """The learner's end of the groups stream: everything from the beginning, once."""

    def __init__(
        self, client: redis.Redis, stream: str, refuse: Callable[[str], None] = log.warning
    ) -> None:
        """`refuse` is called with a sentence about an entry that is not a group."""
        self._client, self._stream, self._refuse = client, stream, refuse

    def take(self, block_ms: int) -> list[ScoredGroup]:
        """The next groups in order of arrival; waits up to `block_ms` milliseconds for the first.

        What is returned is deleted: a dead learner's attempt is never continued, so no other process
        needs it.
        """
        with _redis_errors(f"take from {self._stream}"):
            # From the beginning, not from the last id: what was taken is deleted, and the ids of a
            # stream that was lost and made anew may be lower.
            reply = cast(
                list[tuple[bytes, list[Entry]]],
                self._client.xread(
                    {self._stream: "0-0"}, count=_GROUPS_PER_READ, block=block_ms or None
                ),
            )
            entries = reply[0][1] if reply else []
            if entries:
                self._client.xdel(self._stream, *(entry_id for entry_id, _ in entries))
        return [group for entry in entries if (group := self._decode(*entry)) is not None]

    def _decode(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> ScoredGroup | None:
        try:
            return group_from_pb(types_pb2.ScoredGroup.FromString(fields[_FIELD]))
        except (KeyError, ValueError, DecodeError, PlatformError) as error:
            # If it was the answer to a prompt, the prompt is in neither stream now and is issued again.
            self._refuse(
                f"Entry {entry_id.decode()} of {self._stream} was dropped: it is not a graded group "
                f"({type(error).__name__}: {error}). Another program may write to this Redis."
            )
            return None


class EventQueue:
    """The learner's end of the events stream."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def send(self, event: Event) -> None:
        """Append; the oldest events go when about 100 000 wait (the recorder fetches what it
        missed).
        """
        with _redis_errors(f"send event {event.seq} of {event.job_id}"):
            self._client.xadd(
                EVENTS_STREAM,
                {_FIELD: event.model_dump_json().encode()},
                maxlen=_MAX_EVENTS,
                approximate=True,
            )


class EventConsumer:
    """The recorder's end of the events stream; an event is delivered until it is acknowledged."""

    def __init__(
        self, client: redis.Redis, consumer: str, lease_ms: int = _EVENTS_LEASE_MS
    ) -> None:
        self._group = _ConsumerGroup(client, EVENTS_STREAM, _RECORDER, consumer, lease_ms)

    def take(self, count: int, block_ms: int) -> list[Leased[Event]]:
        """Up to `count` events, unacknowledged ones of the past first; waits up to `block_ms` ms
        for the first.

        An entry that is not an event is logged and deleted: if it was one, the journal still has it.
        """
        leased: list[Leased[Event]] = []
        for entry_id, fields in self._group.take(count, block_ms):
            try:
                leased.append(Leased(entry_id.decode(), Event.model_validate_json(fields[_FIELD])))
            except (KeyError, ValidationError) as error:
                log.warning(
                    "entry of the events stream dropped: it is not an event",
                    entry_id=entry_id,
                    reason=str(error),
                )
                self._group.ack([entry_id.decode()])
        return leased

    def ack(self, entry_ids: Sequence[str]) -> None:
        """Acknowledge and delete."""
        self._group.ack(entry_ids)


def _append(client: redis.Redis, stream: str, message: bytes) -> str:
    with _redis_errors(f"append to {stream}"):
        return cast(bytes, client.xadd(stream, {_FIELD: message})).decode()


def _messages(entries: Sequence[Entry]) -> list[tuple[str, bytes]]:
    return [(entry_id.decode(), fields[_FIELD]) for entry_id, fields in entries]
