"""What every task works with."""

from dataclasses import dataclass

from services.api.adapters.broker import Wakeups
from services.api.adapters.fleet import Fleet
from services.api.db.database import Database
from services.api.recorder.catch_up import JournalReader
from services.api.settings import ApiSettings
from services.api.use_cases.control_plane import ControlPlane
from services.common.streams import connect


@dataclass(frozen=True)
class SchedulerContext(ControlPlane):
    """Connections of one worker process; safe to share between its threads."""

    journals: JournalReader


def open_context(settings: ApiSettings) -> SchedulerContext:
    """Connections by settings; opened lazily, so only after a worker has forked."""
    database = Database(settings.database_url)
    fleet = Fleet(settings.trainer_addresses, settings.rollout_addresses, settings.reward_address)
    return SchedulerContext(
        settings=settings,
        database=database,
        fleet=fleet,
        journals=JournalReader(database, fleet, settings.data_dir.absolute()),
        redis=connect(settings.redis_url),
        wakeups=Wakeups(settings.redis_url),
    )
