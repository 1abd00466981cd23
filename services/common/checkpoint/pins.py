"""Pins: checkpoints that somebody reads. Retention leaves them until the pin has run out.

A pin is an empty file `checkpoints/.pins/step-000042~holder` whose modification time is its end, so
that every process that shares the volume sees it and none has to take it back.
"""

import os
import time
from pathlib import Path
from typing import Final

from services.common.errors import PlatformError

_PINS: Final = ".pins"
_BY: Final = "~"


def pin(checkpoint: Path, holder: str, seconds: float) -> None:
    """Keep the checkpoint for at least so long from now; a longer pin of the holder stays.

    Raises PlatformError("checkpoint_invalid") when it is not there.
    """
    if not checkpoint.is_dir():
        raise PlatformError(
            "checkpoint_invalid",
            f"Checkpoint {checkpoint} was to be read, but its directory is gone.",
            hint="Take another checkpoint of the job, or put the directory back.",
        )
    file = _file(checkpoint, holder)
    file.parent.mkdir(exist_ok=True)
    end = time.time() + seconds
    if not file.exists() or file.stat().st_mtime < end:
        file.touch()
        os.utime(file, (end, end))


def unpin(checkpoint: Path, holder: str) -> None:
    """Take a pin back before its time."""
    _file(checkpoint, holder).unlink(missing_ok=True)


def pinned(directory: Path) -> set[str]:
    """Names of the checkpoints in `directory` that must stay; pins that have run out are removed."""
    names = set()
    for file in (directory / _PINS).glob("*"):
        if file.stat().st_mtime > time.time():
            names.add(file.name.partition(_BY)[0])
        else:
            file.unlink(missing_ok=True)
    return names


def _file(checkpoint: Path, holder: str) -> Path:
    return checkpoint.parent / _PINS / f"{checkpoint.name}{_BY}{holder}"
