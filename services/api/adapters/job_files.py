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
_ARCHIVED: Final = "archived-"
_STEP: Final = "step-"


def job_directory(data_dir: Path, job_id: str) -> Path:
    """Where a job has its checkpoints, journal and logs."""
    return data_dir / "jobs" / job_id


def archived_path(checkpoint: Path, attempt: int) -> Path:
    """New path of a checkpoint that no attempt is to resume from; `attempt` is the newest one, which
    keeps names of several rewinds apart.
    """
    return checkpoint.with_name(f"{_ARCHIVED}{attempt:04d}-{checkpoint.name}")


def is_archived(checkpoint: Path) -> bool:
    """Whether no attempt resumes from the checkpoint."""
    return not checkpoint.name.startswith(_STEP)


def is_archiving(checkpoint: Path) -> bool:
    """Whether a checkpoint has its archived path in the database, but not on disk yet."""
    return (
        checkpoint.name.startswith(_ARCHIVED)
        and not checkpoint.exists()
        and original_path(checkpoint).exists()
    )


def finish_archiving(checkpoint: Path) -> None:
    """Rename the directory of a checkpoint to its archived path unless that was done."""
    if is_archiving(checkpoint):
        original_path(checkpoint).rename(checkpoint)


def archive_checkpoints(job_dir: Path, beyond_step: int, attempt: int) -> None:
    """Rename every checkpoint beyond a step to its archived path; a repeat finds the rest."""
    for path in list_checkpoints(job_dir / _CHECKPOINTS):
        if int(path.name.removeprefix(_STEP)) > beyond_step:
            path.rename(archived_path(path, attempt))


def adopt_checkpoint(checkpoint: Path, parent_dir: Path, job_dir: Path) -> None:
    """Give a new job the checkpoint that it starts from, and the parent's journal. Checkpoint files
    are linked, not copied: they never change.

    The parent may be a fork itself, so its own origin comes along.
    """
    origin = job_dir / ORIGIN
    # Readers do not accept the name of an archived checkpoint.
    target = origin / _CHECKPOINTS / original_path(checkpoint).name
    shutil.copytree(checkpoint, target, copy_function=_link)
    shutil.copytree(
        parent_dir / _JOURNAL, origin / _JOURNAL, ignore=shutil.ignore_patterns("attempt-*")
    )
    if (parent_dir / ORIGIN).is_dir():
        shutil.copytree(parent_dir / ORIGIN, origin / ORIGIN, copy_function=_link)


def is_unstarted_fork(job_dir: Path) -> bool:
    """Whether a job directory holds what a fork starts from and nothing else."""
    return [path.name for path in job_dir.iterdir()] == [ORIGIN]


def delete_job_directory(job_dir: Path) -> None:
    """Remove everything; a directory that does not exist is not an error."""
    shutil.rmtree(job_dir, ignore_errors=True)


def original_path(checkpoint: Path) -> Path:
    """Path that the learner wrote a checkpoint to."""
    return checkpoint.with_name(checkpoint.name[checkpoint.name.index(_STEP) :])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
