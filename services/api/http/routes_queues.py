"""/v1/queues: what lies between learners, replicas and the recorder"""

import time
from collections.abc import Iterator
from typing import Any, Literal, cast

import redis
from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import select

from services.api.db.database import Database
from services.api.db.job_tables import Attempt
from services.api.http.envelope import Page, page_of
from services.api.http.resources import Res
from services.common.errors import PlatformError
from services.common.events import EVENTS_STREAM
from services.common.streams import stream_names

router = APIRouter(tags=["system"])


class QueueView(BaseModel):
    """One Redis stream as it is now."""

    id: str
    """Its key."""
    object: Literal["queue"] = "queue"
    name: str
    """prompts | groups | events"""
    job_id: str | None
    attempt: int | None
    entries: int
    """Not yet answered (prompts), consumed (groups) or recorded (events)."""
    pending: int
    """Of these, those that a consumer holds."""
    oldest_age_s: float | None
    """Of the oldest entry; null where there is none, and for events, which are kept after they were
    recorded.
    """
    bytes: int


@router.get("/v1/queues")
def list_queues(resources: Res) -> Page[QueueView]:
    """The streams of every running attempt, and the platform's events."""
    views = read_queues(resources.database, resources.redis)
    return page_of([(view.id, view) for view in views], len(views))


def read_queues(database: Database, client: redis.Redis) -> list[QueueView]:
    """Streams of running attempts, oldest first, then the events; raises
    PlatformError("queue_unavailable").
    """
    with database.begin() as session:
        running = session.scalars(
            select(Attempt).where(Attempt.ended_at.is_(None)).order_by(Attempt.created_at)
        ).all()
    try:
        views = [view for attempt in running for view in _attempt_queues(client, attempt)]
        return [*views, _events(client)]
    except redis.RedisError as error:
        raise PlatformError(
            "queue_unavailable",
            f"Cannot look at the queues: {error}.",
            hint="Check the server at DIRL_REDIS_URL.",
        ) from error


def _attempt_queues(client: redis.Redis, attempt: Attempt) -> Iterator[QueueView]:
    names = stream_names(attempt.job_id, attempt.number)
    for name, key in (("prompts", names.prompts), ("groups", names.groups)):
        yield QueueView(
            id=key,
            name=name,
            job_id=attempt.job_id,
            attempt=attempt.number,
            entries=int(client.xlen(key)),
            pending=_held(client, key),
            oldest_age_s=_oldest_age_s(client, key),
            bytes=_bytes(client, key),
        )


def _events(client: redis.Redis) -> QueueView:
    pending = _held(client, EVENTS_STREAM)
    return QueueView(
        id=EVENTS_STREAM,
        name="events",
        job_id=None,
        attempt=None,
        entries=pending
        + sum(int(group.get("lag") or 0) for group in _groups(client, EVENTS_STREAM)),
        pending=pending,
        oldest_age_s=None,
        bytes=_bytes(client, EVENTS_STREAM),
    )


def _held(client: redis.Redis, key: str) -> int:
    return sum(int(group["pending"]) for group in _groups(client, key))


def _groups(client: redis.Redis, key: str) -> list[dict[str, Any]]:
    return list(client.xinfo_groups(key)) if client.exists(key) else []


def _oldest_age_s(client: redis.Redis, key: str) -> float | None:
    """Ids of entries begin with the milliseconds of their arrival."""
    entries = client.xrange(key, count=1)
    if not entries:
        return None
    entry_id, _ = cast(tuple[bytes, object], entries[0])
    return max(0.0, time.time() - int(entry_id.partition(b"-")[0]) / 1000)


def _bytes(client: redis.Redis, key: str) -> int:
    return int(client.memory_usage(key) or 0)
