"""A job's directory as the control plane arranges it while no learner works in it: rewinding,
forking, deleting.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from services.common.checkpoint.format import ORIGIN, list_checkpoints

_JOURNAL: Final = "journal"
_CHECKPOINTS: Final = "checkpoints"


def job_directory(data_dir: Path, job_id: str) -> Path:
    """Where a job has its checkpoints, journal and logs."""
    return data_dir / "jobs" / job_id


def set_aside(job_dir: Path, beyond_step: int, attempt: int) -> dict[str, str]:
    """Rename checkpoints beyond a step so that no attempt resumes from them; returns new paths by
    old ones.

    A repeat after a crash finds the rest. `attempt` is the newest one, which keeps the new names
    apart.
    """
    moved: dict[str, str] = {}
    for path in list_checkpoints(job_dir / _CHECKPOINTS):
        target = path.with_name(f"aside-{attempt:04d}-{path.name}")
        if int(path.name.removeprefix("step-")) > beyond_step:
            path.rename(target)
            moved[str(path)] = str(target)
    return moved


def adopt(checkpoint: Path, parent_dir: Path, job_dir: Path) -> None:
    """Give a new job what it goes on from. Checkpoint files are linked, not copied: they never
    change.

    The parent may be a fork itself, so its own origin comes along.
    """
    origin = job_dir / ORIGIN
    # The name of a checkpoint that was set aside is not one that a reader accepts.
    name = checkpoint.name[checkpoint.name.index("step-") :]
    shutil.copytree(checkpoint, origin / _CHECKPOINTS / name, copy_function=_link)
    shutil.copytree(
        parent_dir / _JOURNAL, origin / _JOURNAL, ignore=shutil.ignore_patterns("attempt-*")
    )
    if (parent_dir / ORIGIN).is_dir():
        shutil.copytree(parent_dir / ORIGIN, origin / ORIGIN, copy_function=_link)


def delete_job_directory(job_dir: Path) -> None:
    """Remove everything; a directory that is gone already is no error."""
    shutil.rmtree(job_dir, ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
