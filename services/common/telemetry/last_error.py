"""The last error that this process logged, for those who look at the process and not at its log."""

import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from services.common.settings import redacted

_MAX_CHARS: Final = 500


@dataclass(frozen=True)
class LoggedError:
    """One line of the log, level error or above, without its traceback."""

    message: str
    at: datetime


class _Memory(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.newest: LoggedError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        facts = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
        parts = (
            facts["event"],
            facts.get("reason"),
            _raised(facts.get("exc_info") or record.exc_info),
        )
        message = redacted(": ".join(str(part) for part in parts if part))
        self.newest = LoggedError(message[:_MAX_CHARS], datetime.fromtimestamp(record.created, UTC))


def _raised(exc_info: Any) -> str | None:
    """What logging calls exc_info: True for the exception being handled, a triple or the exception
    itself.
    """
    error = (
        sys.exception()
        if exc_info is True
        else exc_info[1]
        if isinstance(exc_info, tuple)
        else exc_info
    )
    return f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else None


MEMORY: Final = _Memory()
"""Handler of the root logger; services.common.telemetry.logs installs it."""


def last_error() -> LoggedError | None:
    """The newest error since the process began to log; None when there was none."""
    return MEMORY.newest
