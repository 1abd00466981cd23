"""Metrics of the installation for Prometheus: jobs, queues, and processes without a port."""

from collections.abc import Iterator

import redis
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from services.api.db.database import Database
from services.api.db.heartbeats import last_beats
from services.api.db.job_tables import Job
from services.api.domain.job_state import JobState
from services.api.use_cases.queues import read_queues
from services.common.errors import PlatformError
from services.common.telemetry import exported_metrics as exported


class PlatformCollector(Collector):
    """Reads the database and Redis once per scrape. While Redis is down its series are missing,
    not zero.
    """

    def __init__(
        self, database: Database, client: redis.Redis, registry: CollectorRegistry
    ) -> None:
        self._database, self._redis = database, client
        registry.register(self)

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering reads neither."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield jobs by state, stalled jobs, heartbeats and streams."""
        with self._database.begin() as session:
            counts = dict(
                session.execute(select(Job.state, func.count()).group_by(Job.state)).all()
            )
            stalled = session.scalar(select(func.count()).where(Job.stalled.is_not(None)))
            beats = last_beats(session)
        jobs = exported.JOBS.new_family()
        for state in JobState:
            jobs.add_metric([state.value], counts.get(state.value, 0))
        yield jobs
        without_progress = exported.JOBS_STALLED.new_family()
        without_progress.add_metric([], stalled or 0)
        yield without_progress
        seen = exported.SERVICE_LAST_SEEN.new_family()
        for name, beat in beats.items():
            seen.add_metric([name], beat.seen_at.timestamp())
        yield seen
        try:
            views = read_queues(self._database, self._redis)
        except PlatformError:
            return
        depth = exported.QUEUE_DEPTH.new_family()
        size = exported.QUEUE_BYTES.new_family()
        age = exported.QUEUE_OLDEST_AGE.new_family()
        for name in sorted({view.name for view in views}):
            streams = [view for view in views if view.name == name]
            depth.add_metric([name], sum(view.entries for view in streams))
            size.add_metric([name], sum(view.bytes for view in streams))
            ages = [view.oldest_age_s for view in streams if view.oldest_age_s is not None]
            if ages:
                age.add_metric([name], max(ages))
        yield from (depth, size, age)
