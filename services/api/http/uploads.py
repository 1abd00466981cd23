"""Keeping uploaded files: copied, hashed, every row looked at before the file gets an id that
others may use.
"""

import hashlib
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import IO, Final

from services.api.db.record_tables import StoredFile
from services.api.domain.storable import storable
from services.common.data.rows import FileReport, check_file
from services.common.errors import ProblemsError
from services.common.ids import new_id

_CHUNK_BYTES: Final = 1 << 20
_UNSAFE: Final = re.compile(r"[^\w.-]")
_MAX_NAME: Final = 100


def keep_upload(source: IO[bytes], filename: str, purpose: str, files_dir: Path) -> StoredFile:
    """Row of a new file, its content in place; raises ProblemsError("dataset_invalid") and keeps
    nothing otherwise.
    """
    file_id = new_id("file")
    directory = files_dir / file_id
    directory.mkdir(parents=True)
    path = directory / _safe_name(filename)
    try:
        digest, num_bytes = _copy(source, path)
        report = _checked(path, filename)
    except BaseException:
        shutil.rmtree(directory)
        raise
    return StoredFile(
        id=file_id,
        filename=storable(filename),
        purpose=storable(purpose),
        num_bytes=num_bytes,
        num_rows=report.rows,
        sha256=digest,
        path=str(path),
    )


def delete_upload(path: Path) -> None:
    """Remove the file's directory; one that is gone already is no error."""
    shutil.rmtree(path.parent, ignore_errors=True)


def _checked(path: Path, filename: str) -> FileReport:
    report = check_file(path)
    if report.num_problems:
        raise ProblemsError(
            "dataset_invalid",
            f"The file {filename!r} cannot be used",
            report.problems,
            total=report.num_problems,
        )
    return report


def _copy(source: IO[bytes], path: Path) -> tuple[str, int]:
    """sha256 (hex) and length of what was copied."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("xb") as target:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
            target.write(chunk)
    return digest.hexdigest(), num_bytes


def _safe_name(filename: str) -> str:
    """A name that is one path component, whatever a client called its file."""
    name = _UNSAFE.sub("_", PurePosixPath(filename.replace("\\", "/")).name)[-_MAX_NAME:].lstrip(
        "."
    )
    return name or "data.jsonl"
