"""Logs of a job: its learner's own files, and what the other services of this machine wrote about
it.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from services.api.adapters.job_files import job_directory
from services.common.errors import PlatformError

LEARNER: Final = "learner"
_SERVICE: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")
_SHOWN: Final = ("timestamp", "level", "event", "service")


@dataclass(frozen=True)
class LogLine:
    """One line of a log."""

    offset: int
    """Bytes of the file up to the end of the line."""
    time: float | None
    """Unix seconds; None for a line that is not ours, e.g. of a traceback or a stack dump."""
    level: str
    message: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class JobLog:
    """One log file and which of its lines concern the job."""

    path: Path
    job_id: str
    attempt: int
    is_own: bool
    """Whether every line concerns the job."""

    def read(self, after: int, limit: int) -> list[LogLine]:
        """Up to `limit` lines behind an offset; a line that is still being written is left for the
        next call.
        """
        if not self.path.exists():
            return []
        lines: list[LogLine] = []
        with self.path.open("rb") as file:
            file.seek(after)
            while len(lines) < limit and (line := file.readline()).endswith(b"\n"):
                parsed = _parse(line.decode("utf-8", errors="replace"), file.tell())
                # A service's log is shared by all jobs: only lines about this one are shown.
                fields = parsed.fields
                if self.is_own or (
                    fields.get("job_id") == self.job_id
                    and fields.get("attempt") in (None, self.attempt)
                ):
                    lines.append(parsed)
        return lines


def job_log(data_dir: Path, job_id: str, service: str, attempt: int) -> JobLog:
    """The log of a service about an attempt; raises PlatformError("not_found") for a service
    without a log here.
    """
    if service == LEARNER:
        path = job_directory(data_dir, job_id) / "logs" / f"attempt-{attempt:04d}.log"
        return JobLog(path, job_id, attempt, is_own=True)
    path = data_dir / "logs" / f"{service}.log"
    if not _SERVICE.fullmatch(service) or not path.is_file():
        services = sorted(path.stem for path in (data_dir / "logs").glob("*.log"))
        here = ", ".join((LEARNER, *services))
        raise PlatformError(
            "not_found",
            f"No log of {service!r} on this machine; the logs here are of: {here}.",
            hint="Services that run elsewhere write to their own standard error.",
            param="service",
        )
    return JobLog(path, job_id, attempt, is_own=False)


def _parse(text: str, offset: int) -> LogLine:
    try:
        entry = json.loads(text)
        time = datetime.fromisoformat(entry["timestamp"]).timestamp()
        level, message = str(entry["level"]), str(entry["event"])
    except (ValueError, KeyError, TypeError):
        return LogLine(offset, None, "", text.rstrip("\n"), {})
    wanted = {name: value for name, value in entry.items() if name not in _SHOWN}
    return LogLine(offset, time, level, message, wanted)
