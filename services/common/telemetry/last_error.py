"""The last error that this process logged, for its status."""

import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from services.common.settings import redact

_MAX_CHARS: Final = 500


@dataclass(frozen=True)
class LoggedError:
    """A log line of level error or above, without its traceback."""

    message: str
    at: datetime


class _Memory(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.newest: LoggedError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        fields = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
        parts = (
            fields["event"],
            fields.get("reason"),
            _describe_exception(fields.get("exc_info") or record.exc_info),
        )
        message = redact(": ".join(str(part) for part in parts if part))
        self.newest = LoggedError(message[:_MAX_CHARS], datetime.fromtimestamp(record.created, UTC))


def _describe_exception(exc_info: Any) -> str | None:
    """Describe the exc_info of logging: True for the current exception, a triple, or an exception."""
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
    """Return the newest error since the process started; None if there is none."""
    return MEMORY.newest
