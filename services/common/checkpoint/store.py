"""Writing checkpoint directories: all of it or nothing. One writer per directory; imports no torch.

Payload and manifest go into a hidden directory beside the target; every file is fsynced and
digested, the manifest is written last, one rename makes the checkpoint visible, and the parent
directory is fsynced. A crash at any moment leaves the previous checkpoints untouched and at most a
hidden directory, which the next writer removes.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from services.common.checkpoint.format import (
    FORMAT_VERSION,
    MANIFEST,
    CheckpointHeader,
    CheckpointManifest,
    FileEntry,
    checkpoint_name,
    file_sha256,
    list_checkpoints,
)
from services.common.checkpoint.pins import pinned
from services.common.errors import PlatformError
from services.common.job_spec import CheckpointSpec

_PARTIAL: Final = ".partial-"
_REPLACED: Final = ".replaced-"
_FULL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

log = structlog.get_logger()


def write_checkpoint(
    directory: Path, header: CheckpointHeader, write_payload: Callable[[Path], None]
) -> tuple[Path, CheckpointManifest]:
    """Write one checkpoint atomically; returns its path and manifest.

    `write_payload` fills the directory it is given. A directory of the same step is replaced (only
    an invalid one can be there: a learner never writes a step twice). Raises PlatformError
    `disk_full` when the space or quota is exhausted, `checkpoint_failed` for any other OSError;
    nothing half-written stays.
    """
    name = checkpoint_name(header.global_step)
    partial, target = directory / f"{_PARTIAL}{name}", directory / name
    with _translated(f"write the checkpoint {target}"), _removed_on_failure(partial):
        remove_leftovers(directory)
        partial.mkdir(parents=True)
        write_payload(partial)
        manifest = _seal(partial, header)
        _publish(partial, target)
    return target, manifest


def remove_leftovers(directory: Path) -> None:
    """Delete what an interrupted writer left; only the directory's one writer may call it."""
    for pattern in (f"{_PARTIAL}*", f"{_REPLACED}*"):
        for path in directory.glob(pattern):
            log.info("leftover removed", path=str(path))
            shutil.rmtree(path)


def beyond_retention(names: Sequence[str], rules: CheckpointSpec, best: str | None) -> list[str]:
    """Of checkpoints by ascending step, those that are neither among the newest `keep_last`, nor a
    multiple of `keep_every`, nor the one named `best`.
    """
    return [
        name
        for name in names[: -rules.keep_last]
        if name != best and not _kept_for_good(name, rules.keep_every)
    ]


def apply_retention(directory: Path, rules: CheckpointSpec, best: str | None = None) -> list[Path]:
    """Delete what `rules` no longer keep, unless it is pinned: somebody reads it. Returns what was
    deleted.
    """
    checkpoints = {path.name: path for path in list_checkpoints(directory)}
    kept = pinned(directory)
    doomed = [
        checkpoints[name]
        for name in beyond_retention(list(checkpoints), rules, best)
        if name not in kept
    ]
    with _translated(f"delete old checkpoints in {directory}"):
        for path in doomed:
            _retire(path)
    return doomed


def write_file_durably(path: Path, data: bytes) -> None:
    """Replace a small file atomically: written beside, fsynced, renamed, parent fsynced. Raises
    OSError.
    """
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Force a file's or directory's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kept_for_good(name: str, keep_every: int | None) -> bool:
    step = int(name.removeprefix("step-"))
    return keep_every is not None and step % keep_every == 0


def _seal(partial: Path, header: CheckpointHeader) -> CheckpointManifest:
    """fsync and digest every file, then write the manifest."""
    files = {path.relative_to(partial).as_posix(): _entry(path) for path in _files_of(partial)}
    manifest = CheckpointManifest(
        **header.model_dump(), format_version=FORMAT_VERSION, files=files
    ).sealed()
    (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    fsync_path(partial / MANIFEST)
    for folder in {path.parent for path in _files_of(partial)}:
        fsync_path(folder)
    return manifest


def _files_of(directory: Path) -> Iterable[Path]:
    return [path for path in sorted(directory.rglob("*")) if path.is_file()]


def _entry(path: Path) -> FileEntry:
    fsync_path(path)
    return FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)


def _publish(partial: Path, target: Path) -> None:
    replaced = target.with_name(f"{_REPLACED}{target.name}")
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    fsync_path(target.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def _retire(path: Path) -> None:
    """Hidden before it is deleted, so that no reader meets a checkpoint that is half gone."""
    hidden = path.with_name(f"{_REPLACED}{path.name}")
    path.rename(hidden)
    shutil.rmtree(hidden)


@contextmanager
def _removed_on_failure(partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _translated(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        code = "disk_full" if error.errno in _FULL_DISK else "checkpoint_failed"
        hint = (
            "Free space, or lower checkpoint.keep_last."
            if code == "disk_full"
            else "Check the volume."
        )
        raise PlatformError(
            code, f"Cannot {action}: {error}. No checkpoint was changed.", hint=hint
        ) from error
