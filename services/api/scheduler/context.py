"""What every task works with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import redis

from services.api.broker import Hints
from services.api.db.database import Database
from services.api.fleet import Fleet
from services.api.recorder.catch_up import JournalReader
from services.api.settings import ApiSettings
from services.common.streams import connect


@dataclass(frozen=True)
class SchedulerContext:
    """Connections of one worker process; safe to share between its threads."""

    database: Database
    fleet: Fleet
    redis: redis.Redis
    hints: Hints
    journals: JournalReader
    data_dir: Path
    trainer_lost_after_s: float
    stall_budgets_s: Mapping[str, float]
    project_quota_bytes: int | None

    def job_dir(self, job_id: str) -> Path:
        """Directory of a job: checkpoints, journal."""
        return self.data_dir / "jobs" / job_id


def open_context(settings: ApiSettings) -> SchedulerContext:
    """Connections by settings; opened lazily, so only after a worker has forked."""
    database = Database(settings.database_url)
    fleet = Fleet(settings.trainer_addresses, settings.rollout_addresses, settings.reward_address)
    return SchedulerContext(
        database=database,
        fleet=fleet,
        journals=JournalReader(database, fleet, settings.data_dir.absolute()),
        redis=connect(settings.redis_url),
        hints=Hints(settings.redis_url),
        data_dir=settings.data_dir.absolute(),
        trainer_lost_after_s=settings.trainer_lost_after_s,
        stall_budgets_s=settings.stall_budgets_s,
        project_quota_bytes=settings.project_quota_bytes,
    )
