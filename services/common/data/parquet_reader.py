"""The process that unfolds a Parquet file: writes its rows to standard output as lines of JSON.

A line that begins with `!` says why a row has no JSON, one with `?` why the file cannot be read on.
"""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

_BATCH_ROWS: Final = 128
_MEMORY_BYTES: Final = 6 * 2**30
"""Address space; the library itself takes a third."""


class LimitError(Exception):
    """The file unfolds beyond a limit."""


def main(path: str, max_rows: str, max_bytes: str, cpu_s: str) -> None:
    """Write the rows of a file."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s), int(cpu_s)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for line in iter_lines(Path(path), int(max_rows), int(max_bytes)):
            sys.stdout.write(line + "\n")
    except (ArrowException, OSError, ValueError, LimitError) as error:
        reason = " ".join(str(error).split())
    except MemoryError:
        reason = f"unfolding it takes more than {_MEMORY_BYTES} bytes of memory"
    else:
        return
    sys.stdout.write(f"?{reason}\n")


def iter_lines(path: Path, max_rows: int, max_bytes: int) -> Iterator[str]:
    """Yield a line for each row; raises LimitError."""
    unfolded = 0
    with ParquetFile(path) as file:
        if file.metadata.num_rows > max_rows:
            raise LimitError(f"it has {file.metadata.num_rows} rows; the limit is {max_rows}")
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            for row in batch.to_pylist():
                line = _to_line(_drop_nulls(row))
                unfolded += len(line)
                if unfolded > max_bytes:
                    raise LimitError(f"its rows take more than {max_bytes} bytes when unfolded")
                yield line


def _to_line(row: dict[str, Any]) -> str:
    """Return the row as JSON; dates, bytes and the like have no unique representation."""
    try:
        return json.dumps(row, allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"!has a value that JSON does not support ({error}); store it as text or number"


def _drop_nulls(value: Any) -> Any:
    """Drop nulls at every depth: Parquet has one schema, so missing fields of a row are nulls."""
    if isinstance(value, dict):
        return {name: _drop_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_drop_nulls(item) for item in value]
    return value


if __name__ == "__main__":
    main(*sys.argv[1:])
