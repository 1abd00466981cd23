"""The copy of a job in an object store: `jobs/<job>/checkpoints/step-000042/…` and its journals.

A checkpoint exists if its manifest does, which is stored last and deleted first. Journals have every
event of an attempt, including its trajectories, and the step logs from which certificates are
computed.
"""

import shutil
from pathlib import Path
from typing import Final

from services.common.checkpoint.format import (
    MANIFEST,
    ORIGIN,
    checkpoint_name,
    read_manifest,
    verify,
)
from services.common.checkpoint.store import select_expired
from services.common.job_spec import CheckpointSpec
from services.common.object_store import ObjectStore

_CHECKPOINTS: Final = "checkpoints"
_PARTIAL: Final = ".restoring"
_SIDE: Final = ("journal", ORIGIN)
"""Files that a resume needs besides checkpoints. They are append-only, so equal sizes mean equal files."""


class Archive:
    """The archive of one job; every method may raise PlatformError("store_unavailable")."""

    def __init__(self, store: ObjectStore, job_id: str, job_dir: Path) -> None:
        self._store, self._prefix, self._dir = store, f"jobs/{job_id}/", job_dir

    def steps(self) -> list[int]:
        """Return the global steps of the archived checkpoints, ascending."""
        keys = self._store.sizes(f"{self._prefix}{_CHECKPOINTS}/step-")
        return sorted(
            int(key.split("/")[-2].removeprefix("step-"))
            for key in keys
            if key.endswith(f"/{MANIFEST}")
        )

    def add(self, checkpoint: Path, rules: CheckpointSpec, best: str | None) -> None:
        """Store a checkpoint and its journals, and delete those beyond the retention rules."""
        key = f"{self._prefix}{_CHECKPOINTS}/{checkpoint.name}/"
        if f"{key}{MANIFEST}" not in self._store.sizes(key):
            self.add_journals()
            for name in sorted(read_manifest(checkpoint).files):
                self._store.put(key + name, checkpoint / name)
            self._store.put(key + MANIFEST, checkpoint / MANIFEST)
        for name in select_expired([checkpoint_name(step) for step in self.steps()], rules, best):
            self._remove(name)

    def drop_beyond(self, step: int) -> None:
        """Delete checkpoints after `step`. After a rewind they would be restored as the newest ones."""
        for later in (each for each in self.steps() if each > step):
            self._remove(checkpoint_name(later))

    def add_journals(self) -> None:
        """Store the current journals and step logs, and those of the parent of a fork."""
        stored = self._store.sizes(self._prefix)
        for folder in _SIDE:
            for file in sorted(path for path in (self._dir / folder).rglob("*") if path.is_file()):
                key = self._prefix + file.relative_to(self._dir).as_posix()
                if stored.get(key) != file.stat().st_size:
                    self._store.put(key, file)

    def restore(self) -> Path | None:
        """Restore the newest checkpoint and the journals to an empty job directory; None if there is
        no checkpoint.

        Raises `checkpoint_invalid`, and restores nothing, if a file does not match the manifest.
        """
        steps = self.steps()
        if not steps:
            return None
        name = checkpoint_name(steps[-1])
        target, partial = self._dir / _CHECKPOINTS / name, self._dir / _PARTIAL
        shutil.rmtree(partial, ignore_errors=True)  # left by a learner that was killed
        try:
            self._fetch(name, partial)
            verify(partial / _CHECKPOINTS / name)
            for folder in _SIDE:
                if (partial / folder).exists():
                    shutil.copytree(partial / folder, self._dir / folder, dirs_exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            (partial / _CHECKPOINTS / name).rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def delete(self) -> None:
        """Delete everything of the job, manifests first."""
        keys = self._store.sizes(self._prefix)
        self._store.delete(sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST}")))

    def _fetch(self, name: str, directory: Path) -> None:
        for key in self._store.sizes(self._prefix):
            relative = key.removeprefix(self._prefix)
            if relative.startswith(f"{_CHECKPOINTS}/{name}/") or relative.split("/")[0] in _SIDE:
                self._store.get(key, directory / relative)

    def _remove(self, name: str) -> None:
        prefix = f"{self._prefix}{_CHECKPOINTS}/{name}/"
        manifest = f"{prefix}{MANIFEST}"
        self._store.delete([manifest])
        self._store.delete(key for key in self._store.sizes(prefix) if key != manifest)


def archive_of(url: str | None, job_id: str, job_dir: Path) -> Archive | None:
    """Open the archive of a job; None without the URL of an object store."""
    return None if url is None else Archive(ObjectStore(url), job_id, job_dir)
