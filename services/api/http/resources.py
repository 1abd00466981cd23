"""What the routes work with, and the parameters they share."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Query, Request
from prometheus_client import CollectorRegistry

from services.api.adapters.broker import Wakeups
from services.api.adapters.fleet import Fleet
from services.api.db.database import Database
from services.api.domain.rate import RateLimits
from services.api.domain.slots import Slots
from services.api.http.heavy import HeavyWork, stream_slots
from services.api.settings import ApiSettings
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.event_feed import EventFeed
from services.common.release import release
from services.common.streams import connect
from services.common.telemetry.metrics import new_registry


@dataclass(frozen=True)
class Resources(ControlPlane):
    """Connections of the API process, and what it keeps in memory."""

    rates: RateLimits
    feed: EventFeed
    registry: CollectorRegistry = field(default_factory=new_registry)
    version: str = field(default_factory=release)
    heavy: HeavyWork = field(default_factory=HeavyWork)
    streams: Slots = field(default_factory=stream_slots)
    """Of event streams."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process is asked to end: streams of events close themselves."""


@contextmanager
def open_resources(settings: ApiSettings) -> Iterator[Resources]:
    """Connections by settings, closed at the end of the block."""
    database = Database(settings.database_url)
    resources = Resources(
        settings=settings,
        database=database,
        fleet=Fleet(
            settings.trainer_addresses, settings.rollout_addresses, settings.reward_address
        ),
        redis=connect(settings.redis_url),
        wakeups=Wakeups(settings.redis_url),
        rates=RateLimits(settings.rate_limit_per_s),
        feed=EventFeed(database),
    )
    try:
        yield resources
    finally:
        resources.close()


async def _get_resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


Res = Annotated[Resources, Depends(_get_resources)]
After = Annotated[str | None, Query(description="Id of the last item of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Items of a page.")]
