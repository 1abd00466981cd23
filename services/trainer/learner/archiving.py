"""Copies an attempt's checkpoints to the object store while training continues; a store that cannot
be reached costs a warning.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from services.common.checkpoint.archive import Archive
from services.common.checkpoint.format import list_checkpoints
from services.common.checkpoint.pins import pin, unpin
from services.common.errors import PlatformError
from services.common.job_spec import CheckpointSpec
from services.trainer.learner.journal import Journal

_HOLDER: Final = "archiver"
_PIN_S: Final = 3600.0
"""How long retention leaves a checkpoint that waits for its copy, should the learner die."""


class Archiver:
    """One thread that copies, in the order of the steps; the learner's thread reports failures."""

    def __init__(self, archive: Archive, rules: CheckpointSpec, journal: Journal) -> None:
        self._archive, self._rules, self._journal = archive, rules, journal
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="archiver")
        self._failures: SimpleQueue[PlatformError] = SimpleQueue()

    def catch_up(self, directory: Path, resumed_from: int, best: str | None) -> None:
        """Bring the store up to date with the volume: drop what a rewind undid, copy what failed
        to be copied before.
        """
        self._thread.submit(self._try, partial(self._archive.drop_beyond, resumed_from))
        for checkpoint in list_checkpoints(directory):
            self.submit(checkpoint, best)

    def submit(self, checkpoint: Path, best: str | None) -> None:
        """Queue the copy of a complete checkpoint, and report earlier failures."""
        # Pinned before it is queued: retention of the next checkpoint may run before the copy does.
        pin(checkpoint, _HOLDER, _PIN_S)
        self._thread.submit(self._try, partial(self._copy, checkpoint, best))
        self._report()

    def close(self) -> None:
        """Wait for the copies, and copy the journals as they are now."""
        self._thread.submit(self._try, self._archive.add_journals)
        self._thread.shutdown(wait=True)
        self._report()

    def _copy(self, checkpoint: Path, best: str | None) -> None:
        try:
            self._archive.add(checkpoint, self._rules, best)
        finally:
            unpin(checkpoint, _HOLDER)

    def _try(self, copy: Callable[[], None]) -> None:
        try:
            copy()
        except PlatformError as error:
            self._failures.put(error)
        # Failures wait for the learner's thread: the journal has one writer.
        except OSError as error:
            self._failures.put(
                PlatformError("checkpoint_failed", f"Cannot copy a checkpoint: {error}.")
            )

    def _report(self) -> None:
        while not self._failures.empty():
            error = self._failures.get()
            self._journal.say(
                "warning",
                error.code,
                f"{error.message} It is retried with the next checkpoint or attempt.",
            )


def restore_newest(archive: Archive, journal: Journal) -> bool:
    """Fetch the newest copy onto a volume that has no checkpoint of the job; returns whether there
    was one.
    """
    checkpoint = archive.restore()
    if checkpoint is not None:
        message = f"The volume had no checkpoint of the job; {checkpoint.name} came from the object store."
        journal.say("warning", "checkpoint_restored", message)
    return checkpoint is not None
