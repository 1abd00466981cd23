"""Write checkpoint directories atomically. One writer per directory; imports no torch.

Payload and manifest are written to a hidden directory next to the target. Every file is fsynced and
hashed, the manifest is written last, one rename publishes the checkpoint, and the parent directory
is fsynced. A crash leaves the previous checkpoints unchanged, and at most a hidden directory, which
the next writer deletes.
"""

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
from services.common.checkpoint.pins import list_pinned
from services.common.job_spec import CheckpointSpec
from services.common.storage_errors import to_storage_error

_PARTIAL: Final = ".partial-"
_REPLACED: Final = ".replaced-"

log = structlog.get_logger()


def write_checkpoint(
    directory: Path, header: CheckpointHeader, write_payload: Callable[[Path], None]
) -> tuple[Path, CheckpointManifest]:
    """Write one checkpoint atomically; returns its path and manifest.

    `write_payload` writes the other files to the given directory. A directory of the same step is
    replaced; it can only be an invalid one, since a learner never writes a step twice. Raises
    PlatformError `disk_full` when the disk or quota is full, `checkpoint_failed` for other
    OSErrors; partial files are deleted.
    """
    name = checkpoint_name(header.global_step)
    partial, target = directory / f"{_PARTIAL}{name}", directory / name
    with _translating_errors(f"write the checkpoint {target}"), _deleting_on_failure(partial):
        remove_leftovers(directory)
        partial.mkdir(parents=True)
        write_payload(partial)
        manifest = _seal(partial, header)
        _publish(partial, target)
    return target, manifest


def remove_leftovers(directory: Path) -> None:
    """Delete the files of an interrupted writer. Only the writer of the directory may call it."""
    for pattern in (f"{_PARTIAL}*", f"{_REPLACED}*"):
        for path in directory.glob(pattern):
            log.info("leftover removed", path=str(path))
            shutil.rmtree(path)


def select_expired(names: Sequence[str], rules: CheckpointSpec, best: str | None) -> list[str]:
    """Select checkpoints to delete, given names by ascending step.

    Kept are the newest `keep_last`, multiples of `keep_every`, and the one named `best`.
    """

    def is_milestone(name: str) -> bool:
        return rules.keep_every is not None and int(name[len("step-") :]) % rules.keep_every == 0

    return [name for name in names[: -rules.keep_last] if name != best and not is_milestone(name)]


def expired_checkpoints(
    directory: Path, rules: CheckpointSpec, best: str | None = None
) -> list[Path]:
    """Return the checkpoints beyond `rules`, except pinned ones, by ascending step."""
    checkpoints = {path.name: path for path in list_checkpoints(directory)}
    kept = list_pinned(directory)
    return [
        checkpoints[name]
        for name in select_expired(list(checkpoints), rules, best)
        if name not in kept
    ]


def delete_checkpoints(checkpoints: Iterable[Path]) -> None:
    """Delete checkpoint directories; raises `checkpoint_failed`."""
    for path in checkpoints:
        with _translating_errors(f"delete the checkpoint {path}"):
            # Hidden before it is deleted, so that no reader sees a partly deleted checkpoint.
            hidden = path.with_name(f"{_REPLACED}{path.name}")
            path.rename(hidden)
            shutil.rmtree(hidden)


def write_file_durably(path: Path, data: bytes) -> None:
    """Replace a small file atomically and durably; raises OSError."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Flush a file or directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(partial: Path, header: CheckpointHeader) -> CheckpointManifest:
    """Flush and hash every file, then write the manifest."""
    files = {path.relative_to(partial).as_posix(): _hash_file(path) for path in _files_of(partial)}
    manifest = CheckpointManifest(
        **header.model_dump(), format_version=FORMAT_VERSION, files=files
    ).seal()
    (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    fsync_path(partial / MANIFEST)
    for folder in {path.parent for path in _files_of(partial)}:
        fsync_path(folder)
    return manifest


def _files_of(directory: Path) -> Iterable[Path]:
    return [path for path in sorted(directory.rglob("*")) if path.is_file()]


def _hash_file(path: Path) -> FileEntry:
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


@contextmanager
def _deleting_on_failure(partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _translating_errors(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise to_storage_error(action, error, code="checkpoint_failed") from error
