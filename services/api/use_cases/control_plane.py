"""Connections that every use case works with."""

from dataclasses import dataclass
from pathlib import Path

import redis

from services.api.adapters.broker import Wakeups
from services.api.adapters.fleet import Fleet
from services.api.adapters.job_files import job_directory
from services.api.db.database import Database
from services.api.db.usage import usage_of
from services.api.domain.space import require_quota
from services.api.settings import ApiSettings


@dataclass(frozen=True)
class ControlPlane:
    """Database, broker, other services and files, as the API and the scheduler share them."""

    settings: ApiSettings
    database: Database
    fleet: Fleet
    redis: redis.Redis
    wakeups: Wakeups

    @property
    def data_dir(self) -> Path:
        """Directory shared by all services."""
        return self.settings.data_dir.absolute()

    def job_dir(self, job_id: str) -> Path:
        """Directory of a job: checkpoints, journal, logs."""
        return job_directory(self.data_dir, job_id)

    def require_quota(self, project: str, more: int = 0) -> None:
        """Raise PlatformError("quota_exceeded") when the project may not store so many bytes more."""
        with self.database.begin() as session:
            usage = usage_of(session, project, self.settings.project_quota_bytes)
        require_quota(project, usage, more)

    def close(self) -> None:
        """Close every connection."""
        self.fleet.close()
        self.redis.close()
        self.database.dispose()
