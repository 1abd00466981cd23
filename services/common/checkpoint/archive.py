"""The copy of a job in an object store: `jobs/<job>/checkpoints/step-000042/…`, its journals beside
them.

A checkpoint counts as there when its manifest is, which is stored last and deleted first. Journals
hold every event of an attempt, its trajectories included, and the step logs from which certificates
are computed.
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
from services.common.checkpoint.store import beyond_retention
from services.common.job_spec import CheckpointSpec
from services.common.object_store import ObjectStore

_CHECKPOINTS: Final = "checkpoints"
_ARRIVING: Final = ".restoring"
_SIDE: Final = ("journal", ORIGIN)
"""What a resume needs besides checkpoints; append-only, so that equal sizes are equal files."""


class Archive:
    """One job in the store; every method raises PlatformError("store_unavailable")."""

    def __init__(self, store: ObjectStore, job_id: str, job_dir: Path) -> None:
        self._store, self._prefix, self._dir = store, f"jobs/{job_id}/", job_dir

    def steps(self) -> list[int]:
        """Global steps of the checkpoints that are there, ascending."""
        keys = self._store.sizes(f"{self._prefix}{_CHECKPOINTS}/step-")
        return sorted(
            int(key.split("/")[-2].removeprefix("step-"))
            for key in keys
            if key.endswith(f"/{MANIFEST}")
        )

    def add(self, checkpoint: Path, rules: CheckpointSpec, best: str | None) -> None:
        """Store a checkpoint, what a resume from it needs, and drop those that the rules no longer
        keep.
        """
        key = f"{self._prefix}{_CHECKPOINTS}/{checkpoint.name}/"
        if f"{key}{MANIFEST}" not in self._store.sizes(key):
            self.add_journals()
            for name in sorted(read_manifest(checkpoint).files):
                self._store.put(key + name, checkpoint / name)
            self._store.put(key + MANIFEST, checkpoint / MANIFEST)
        for name in beyond_retention([checkpoint_name(step) for step in self.steps()], rules, best):
            self._remove(name)

    def drop_beyond(self, step: int) -> None:
        """Remove checkpoints of later steps: the job was rewound, and they would be taken for its
        newest.
        """
        for later in (each for each in self.steps() if each > step):
            self._remove(checkpoint_name(later))

    def add_journals(self) -> None:
        """Store journals and step logs as far as they are written, and the parent's part of a fork."""
        there = self._store.sizes(self._prefix)
        for folder in _SIDE:
            for file in sorted(path for path in (self._dir / folder).rglob("*") if path.is_file()):
                key = self._prefix + file.relative_to(self._dir).as_posix()
                if there.get(key) != file.stat().st_size:
                    self._store.put(key, file)

    def restore(self) -> Path | None:
        """Bring the newest checkpoint into an empty job directory, with journals; None when none is
        there.

        Raises `checkpoint_invalid` when what came is not what the manifest states; nothing is left
        of it then.
        """
        steps = self.steps()
        if not steps:
            return None
        name = checkpoint_name(steps[-1])
        target, arrived = self._dir / _CHECKPOINTS / name, self._dir / _ARRIVING
        shutil.rmtree(arrived, ignore_errors=True)  # of a learner that was killed
        try:
            self._fetch(name, arrived)
            verify(arrived / _CHECKPOINTS / name)
            for folder in _SIDE:
                if (arrived / folder).exists():
                    shutil.copytree(arrived / folder, self._dir / folder, dirs_exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            (arrived / _CHECKPOINTS / name).rename(target)
        finally:
            shutil.rmtree(arrived, ignore_errors=True)
        return target

    def delete(self) -> None:
        """Remove everything of the job, manifests first."""
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
    """The job's copy in the store of that URL; None without one."""
    return None if url is None else Archive(ObjectStore(url), job_id, job_dir)
