"""The streams between learners, replicas and the recorder."""

from collections.abc import Iterator
from typing import Any, cast

import redis
from sqlalchemy import select

from services.api.db.database import Database
from services.api.db.job_tables import Attempt
from services.api.schemas.system import QueueView
from services.common.errors import PlatformError
from services.common.events import EVENTS_STREAM
from services.common.streams import stream_names


def read_queues(database: Database, client: redis.Redis) -> list[QueueView]:
    """Streams of running attempts, oldest first, then the events; raises
    PlatformError("queue_unavailable").
    """
    with database.begin() as session:
        running = session.scalars(
            select(Attempt).where(Attempt.ended_at.is_(None)).order_by(Attempt.created_at)
        ).all()
    try:
        views = [view for attempt in running for view in _read_attempt_queues(client, attempt)]
        pending = _count_pending(client, EVENTS_STREAM)
        return [
            *views,
            QueueView(
                id=EVENTS_STREAM,
                name="events",
                job_id=None,
                attempt=None,
                entries=pending
                + sum(int(group.get("lag") or 0) for group in _list_groups(client, EVENTS_STREAM)),
                pending=pending,
                oldest_age_s=None,
                bytes=_measure_bytes(client, EVENTS_STREAM),
            ),
        ]
    except redis.RedisError as error:
        raise PlatformError(
            "queue_unavailable",
            f"Cannot read the queues: {error}.",
            hint="Check the server at DIRL_REDIS_URL.",
        ) from error


def _read_attempt_queues(client: redis.Redis, attempt: Attempt) -> Iterator[QueueView]:
    names = stream_names(attempt.job_id, attempt.number)
    now_s, _ = client.time()  # ids are times of the server's clock
    for name, key in (("prompts", names.prompts), ("groups", names.groups)):
        # Ids of entries begin with the milliseconds of their arrival.
        oldest = cast(list[tuple[bytes, object]], client.xrange(key, count=1))
        arrivals_s = [int(entry_id.partition(b"-")[0]) / 1000 for entry_id, _ in oldest]
        yield QueueView(
            id=key,
            name=name,
            job_id=attempt.job_id,
            attempt=attempt.number,
            entries=int(client.xlen(key)),
            pending=_count_pending(client, key),
            oldest_age_s=max(0.0, now_s - arrivals_s[0]) if arrivals_s else None,
            bytes=_measure_bytes(client, key),
        )


def _count_pending(client: redis.Redis, key: str) -> int:
    return sum(int(group["pending"]) for group in _list_groups(client, key))


def _list_groups(client: redis.Redis, key: str) -> list[dict[str, Any]]:
    return list(client.xinfo_groups(key)) if client.exists(key) else []


def _measure_bytes(client: redis.Redis, key: str) -> int:
    return int(client.memory_usage(key) or 0)
