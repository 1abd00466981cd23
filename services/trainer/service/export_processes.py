"""Exports as child processes, polled by id."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

import structlog

from services.common.errors import PlatformError
from services.common.storage_errors import STORAGE_EXITS

_MAX_RUNNING: Final = 2
_MAX_REMEMBERED: Final = 1000
_KILL_AFTER_S: Final = 5.0
_CODES: Final = {status: code for code, status in STORAGE_EXITS.items()}

log = structlog.get_logger()


@dataclass(frozen=True)
class ExportStatus:
    """State of an export."""

    state: str
    """unknown | running | succeeded | failed"""
    error_message: str = ""
    error_code: str = ""
    """A code of services.common.errors; empty unless the export failed."""


class ExportProcesses:
    """Runs `services.trainer.service.export_checkpoint`; safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._ended: dict[str, ExportStatus] = {}

    def start(self, export_id: str, checkpoint: Path, output: Path) -> ExportStatus:
        """Start an export unless it was started; raises `busy` when too many run."""
        with self._lock:
            known = self._look(export_id)
            if known.state != "unknown":
                return known
            if (
                sum(self._look(name).state == "running" for name in list(self._running))
                >= _MAX_RUNNING
            ):
                raise PlatformError(
                    "busy",
                    f"Cannot start export {export_id}: {_MAX_RUNNING} are running. Try again.",
                )
            command = [
                sys.executable,
                "-m",
                "services.trainer.service.export_checkpoint",
                str(checkpoint),
                str(output),
            ]
            self._running[export_id] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            log.info(
                "export started",
                export_id=export_id,
                checkpoint=str(checkpoint),
                output=str(output),
            )
            return ExportStatus("running")

    def status(self, export_id: str) -> ExportStatus:
        """State of the export; `unknown` for one that this process did not start."""
        with self._lock:
            return self._look(export_id)

    def shutdown(self) -> None:
        """End the running exports; a partial output is hidden and replaced when the export is
        started again.
        """
        with self._lock:
            for process in self._running.values():
                process.terminate()
            for process in self._running.values():
                try:
                    process.communicate(timeout=_KILL_AFTER_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
            self._running.clear()

    def _look(self, export_id: str) -> ExportStatus:
        process = self._running.get(export_id)
        if process is None:
            return self._ended.get(export_id, ExportStatus("unknown"))
        if process.poll() is None:
            return ExportStatus("running")
        _, message = process.communicate()
        del self._running[export_id]
        ended = (
            ExportStatus("succeeded")
            if process.returncode == 0
            else ExportStatus(
                "failed",
                message.strip() or f"the export process ended with status {process.returncode}",
                _CODES.get(process.returncode, "internal"),
            )
        )
        log.info("export ended", export_id=export_id, state=ended.state, reason=ended.error_message)
        if len(self._ended) >= _MAX_REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._ended[export_id] = ended
        return ended
