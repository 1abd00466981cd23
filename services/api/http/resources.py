"""What the routes work with, and the parameters they share."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import redis
from fastapi import Depends, Query, Request
from prometheus_client import CollectorRegistry

from services.api.broker import Hints
from services.api.db.database import Database
from services.api.db.usage import usage_of
from services.api.domain.rate import RateLimits
from services.api.domain.space import require_quota
from services.api.fleet import Fleet
from services.api.http.event_feed import EventFeed
from services.api.settings import ApiSettings
from services.common.release import release
from services.common.streams import connect
from services.common.telemetry.metrics import new_registry


@dataclass(frozen=True)
class Resources:
    """Connections of the API process."""

    settings: ApiSettings
    database: Database
    fleet: Fleet
    redis: redis.Redis
    hints: Hints
    rates: RateLimits
    feed: EventFeed
    registry: CollectorRegistry = field(default_factory=new_registry)
    version: str = field(default_factory=release)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process is asked to end: streams of events close themselves."""

    @property
    def data_dir(self) -> Path:
        """Directory shared by all services."""
        return self.settings.data_dir.absolute()

    def require_quota(self, project: str, more: int = 0) -> None:
        """Raise PlatformError("quota_exceeded") when the project may not keep so many bytes more."""
        with self.database.begin() as session:
            require_quota(
                project, usage_of(session, project, self.settings.project_quota_bytes), more
            )


@contextmanager
def open_resources(settings: ApiSettings) -> Iterator[Resources]:
    """Connections by settings, closed at the end of the block."""
    database = Database(settings.database_url)
    resources = Resources(
        settings=settings,
        database=database,
        feed=EventFeed(database),
        fleet=Fleet(
            settings.trainer_addresses, settings.rollout_addresses, settings.reward_address
        ),
        redis=connect(settings.redis_url),
        hints=Hints(settings.redis_url),
        rates=RateLimits(settings.rate_limit_per_s),
    )
    try:
        yield resources
    finally:
        resources.fleet.close()
        resources.redis.close()
        resources.database.dispose()


async def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


Res = Annotated[Resources, Depends(_resources)]
After = Annotated[str | None, Query(description="Id of the last item of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Items of a page.")]
