"""Read the rows of a Parquet file in a process that can be killed.

A file of a kilobyte may unfold to gigabytes, whatever sizes it declares, and the C++ library cannot
be interrupted. So a child process unfolds it, with limits on memory, CPU time, rows and bytes.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.common.data.fields import FieldError

MAGIC: Final = b"PAR1"
MAX_ROWS: Final = 10_000_000
_MIB: Final = 2**20
_MIN_UNFOLDED_BYTES: Final = 64 * _MIB
_MAX_RATIO: Final = 100
"""Bytes of JSON for each byte of the file; data sets of text have 3 to 20."""
_MIN_CPU_S: Final = 30
_CPU_S_PER_MIB: Final = 1


def is_parquet(path: Path) -> bool:
    """Whether the file starts with the magic bytes of Parquet; raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def iter_parquet(path: Path) -> Iterator[bytes | FieldError]:
    """Yield the rows as lines of JSON without null fields, or why a row is none.

    Raises FieldError for a file that is damaged, or beyond a limit when it is unfolded.
    """
    size = path.stat().st_size
    max_bytes = max(_MIN_UNFOLDED_BYTES, _MAX_RATIO * size)
    cpu_s = _MIN_CPU_S + _CPU_S_PER_MIB * size // _MIB
    limits = (str(number) for number in (MAX_ROWS, max_bytes, cpu_s))
    command = [sys.executable, "-m", "services.common.data.parquet_reader", str(path), *limits]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                kind, content = line[:1], line[1:]
                if kind == b"{":
                    yield line
                elif kind == b"!":
                    yield FieldError(content.decode().strip())
                else:
                    raise FieldError(
                        f"cannot be read as Parquet: {content.decode().strip()}; write the file again"
                    )
            if status := child.wait():
                raise FieldError(
                    f"cannot be read as Parquet within {cpu_s} s and the memory of the reader (exit status {status});"
                    " write the file with smaller row groups, or as JSON lines"
                )
        finally:
            # Also when the caller wants no more rows.
            child.kill()
