"""Reads what the event stream lost from the learner's journal, through any trainer that answers."""

from pathlib import Path

from sqlalchemy import select

from services.api.adapters.fleet import UNREACHABLE_CODES, Fleet
from services.api.db.database import Database
from services.api.db.job_tables import Attempt
from services.api.recorder.apply import apply_events
from services.common.errors import PlatformError
from services.common.events import Event
from services.common.telemetry.logs import get_logger

log = get_logger()


class JournalReader:
    """Fills gaps; journals lie in the directory that all trainers share."""

    def __init__(self, database: Database, fleet: Fleet, data_dir: Path) -> None:
        self._database, self._fleet, self._data_dir = database, fleet, data_dir

    def catch_up(self, job_id: str, attempt_number: int) -> PlatformError | None:
        """Apply every journalled event that is not applied yet; returns what kept it from doing so,
        None when done.
        """
        try:
            wanted = select(Attempt).where(
                Attempt.job_id == job_id, Attempt.number == attempt_number
            )
            with self._database.begin() as session:
                attempt = session.scalars(wanted).one_or_none()
            if attempt is None:
                raise PlatformError(
                    "not_found", f"Job {job_id} has no attempt {attempt_number} to read events of."
                )
            trainer, after = attempt.trainer_address, attempt.last_event_seq
            while events := self._read_journal(job_id, attempt_number, trainer, after):
                with self._database.begin() as session:
                    applied = apply_events(session, job_id, attempt_number, events)
                if applied.last_seq <= after:
                    raise PlatformError(
                        "internal",
                        f"The journal of attempt {attempt_number} of job {job_id} has later events but"
                        f" not event {after + 1}.",
                        hint="Events are numbered without gaps; the journal file was altered or damaged.",
                    )
                after = applied.last_seq
        except PlatformError as error:
            log.warning(
                "events not fetched", job_id=job_id, attempt=attempt_number, reason=error.message
            )
            return error
        return None

    def _read_journal(
        self, job_id: str, attempt_number: int, trainer: str, after_seq: int
    ) -> list[Event]:
        """Asks the attempt's own trainer first; raises its error when none answers."""
        job_dir = self._data_dir / "jobs" / job_id
        errors: list[PlatformError] = []
        for address in dict.fromkeys((trainer, *self._fleet.trainers)):
            try:
                return self._fleet.journalled_events(address, job_dir, attempt_number, after_seq)
            except PlatformError as error:
                errors.append(error)
                if error.code not in UNREACHABLE_CODES:
                    break
        raise errors[-1]
