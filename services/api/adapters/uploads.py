"""Uploaded files: copied, hashed, and every row checked before jobs may use them."""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from services.common.data.rows import check_file
from services.common.errors import ProblemsError
from services.common.ids import new_id

LAYOUT_PROBLEMS: Final = ".layout_problems.json"
"""An upload never has a name with a leading dot, so it cannot have this one."""
_CHUNK_BYTES: Final = 1 << 20
_UNSAFE: Final = re.compile(r"[^\w.-]")
_MAX_NAME: Final = 100


@dataclass(frozen=True)
class KeptUpload:
    """A file in its place, checked."""

    file_id: str
    path: Path
    num_bytes: int
    num_rows: int
    sha256: str


def keep_upload(source: IO[bytes], filename: str, files_dir: Path) -> KeptUpload:
    """Copy and check a file; raises ProblemsError("dataset_invalid") and keeps nothing then."""
    file_id = new_id("file")
    directory = files_dir / file_id
    directory.mkdir(parents=True)
    # One path component, whatever the client called its file.
    name = _UNSAFE.sub("_", PurePosixPath(filename.replace("\\", "/")).name)[-_MAX_NAME:].lstrip(
        "."
    )
    path = directory / (name or "data.jsonl")
    try:
        digest, num_bytes = _copy_and_hash(source, path)
        report = check_file(path)
        # What no layout fits may be read by the `data.fields` of a job.
        if report.num_problems > report.num_layout_problems:
            raise ProblemsError(
                "dataset_invalid",
                f"The file {filename!r} cannot be used",
                report.problems,
                total=report.num_problems,
            )
    except BaseException:
        shutil.rmtree(directory)
        raise
    if report.problems:
        problems = [str(problem) for problem in report.problems]
        (directory / LAYOUT_PROBLEMS).write_text(json.dumps(problems), encoding="utf-8")
    num_rows = report.rows + report.num_layout_problems
    return KeptUpload(file_id, path, num_bytes, num_rows, digest)


def read_layout_problems(path: Path) -> tuple[str, ...]:
    """Return why rows of an upload cannot be used without `data.fields`; the first ones."""
    stored = path.parent / LAYOUT_PROBLEMS
    return tuple(json.loads(stored.read_bytes())) if stored.exists() else ()


def _copy_and_hash(source: IO[bytes], path: Path) -> tuple[str, int]:
    """sha256 (hex) and length of what was copied."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("xb") as target:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
            target.write(chunk)
    return digest.hexdigest(), num_bytes
