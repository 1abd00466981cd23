"""Read the rows of a Parquet or Arrow file in a process that can be killed.

A file of a kilobyte may unfold to gigabytes, whatever sizes it declares, and the C++ library cannot
be interrupted. So a child process unfolds it, with limits on memory, CPU time, rows and bytes.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.common.data.row_errors import FieldError

_PARQUET: Final = b"PAR1"
_ARROW: Final = (b"ARROW1", b"\xff\xff\xff\xff")
"""First bytes of Arrow's file format and of its stream format."""
_MAGIC_BYTES: Final = 6
MAX_ROWS: Final = 10_000_000
MIB: Final = 2**20
MIN_UNFOLDED_BYTES: Final = 64 * MIB
MAX_RATIO: Final = 100
"""Bytes of JSON for each byte of the file; data sets of text have 3 to 20."""
_MIN_CPU_S: Final = 30
_CPU_S_PER_MIB: Final = 1


def is_parquet(path: Path) -> bool:
    """Whether the file starts with the magic bytes of Parquet; raises OSError."""
    return _read_magic(path).startswith(_PARQUET)


def is_table(path: Path) -> bool:
    """Whether the file starts with the magic bytes of Parquet or Arrow; raises OSError."""
    return _read_magic(path).startswith((_PARQUET, *_ARROW))


def _read_magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAGIC_BYTES)


def iter_table(path: Path) -> Iterator[bytes]:
    """Yield the rows as lines of JSON without null fields.

    Raises FieldError for a file that is damaged, or beyond a limit when it is unfolded.
    """
    size = path.stat().st_size
    max_bytes = max(MIN_UNFOLDED_BYTES, MAX_RATIO * size)
    cpu_s = _MIN_CPU_S + _CPU_S_PER_MIB * size // MIB
    limits = (str(number) for number in (MAX_ROWS, max_bytes, cpu_s))
    command = [sys.executable, "-m", "services.common.data.table_reader", str(path), *limits]
    kind = "Parquet" if is_parquet(path) else "Arrow"
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            yield from child.stdout
            reason = child.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
            status = child.wait()
        finally:
            # Also when the caller wants no more rows.
            child.kill()
    if status == 1 and reason:
        raise FieldError(f"cannot be read as {kind}: {reason}; write the file again")
    if status:
        raise FieldError(
            f"cannot be read as {kind} within {cpu_s} s and the memory of the reader (exit status {status});"
            " write the file with smaller row groups, or as JSON lines"
        )
