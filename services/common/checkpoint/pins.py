"""Pins protect checkpoints that a process reads from retention.

A pin is an empty file `checkpoints/.pins/step-000042~holder` whose modification time is its expiry,
so that every process on the shared volume sees it, and pins of a crashed process expire.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

from services.common.errors import PlatformError

_PINS: Final = ".pins"
_BY: Final = "~"


def pin(checkpoint: Path, holder: str, seconds: float) -> None:
    """Protect the checkpoint for at least `seconds`; a longer pin of the same holder is kept.

    Raises PlatformError("checkpoint_invalid") if the checkpoint does not exist.
    """
    if not checkpoint.is_dir():
        raise PlatformError(
            "checkpoint_invalid",
            f"Cannot read checkpoint {checkpoint}: its directory does not exist.",
            hint="Use another checkpoint of the job, or restore the directory.",
        )
    file = _pin_file(checkpoint, holder)
    file.parent.mkdir(exist_ok=True)
    end = _volume_time(file.parent) + seconds
    if not file.exists() or file.stat().st_mtime < end:
        file.touch()
        os.utime(file, (end, end))


def unpin(checkpoint: Path, holder: str) -> None:
    """Remove a pin before it expires."""
    _pin_file(checkpoint, holder).unlink(missing_ok=True)


def list_pinned(directory: Path) -> set[str]:
    """Return the names of pinned checkpoints in `directory`; deletes expired pins."""
    files = list((directory / _PINS).glob(f"*{_BY}*"))
    if not files:
        return set()
    now = _volume_time(directory / _PINS)
    names = set()
    for file in files:
        if file.stat().st_mtime > now:
            names.add(file.name.partition(_BY)[0])
        else:
            file.unlink(missing_ok=True)
    return names


def _volume_time(directory: Path) -> float:
    """Unix seconds by the clock that stamps new files: one for all hosts that mount the volume, whose own
    clocks may differ.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        return os.fstat(file.fileno()).st_mtime


def _pin_file(checkpoint: Path, holder: str) -> Path:
    return checkpoint.parent / _PINS / f"{checkpoint.name}{_BY}{holder}"
