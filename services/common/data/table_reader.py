"""The process that unfolds a Parquet or Arrow file: writes its rows to standard output as lines of JSON.

A file that cannot be read on ends it with status 1, and the reason on standard error.
"""

import json
import math
import resource
import sys
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pyarrow
from pyarrow import ArrowException, compute, ipc, types
from pyarrow.parquet import ParquetFile

_BATCH_ROWS: Final = 128
_MEMORY_BYTES: Final = 6 * 2**30
"""Address space; the library itself takes a third."""
_FILE_FORMAT: Final = b"ARROW1"


class LimitError(Exception):
    """The file unfolds beyond a limit."""


def main(path: str, max_rows: str, max_bytes: str, cpu_s: str) -> str | None:
    """Write the rows of a file; return why it cannot be read on."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s), int(cpu_s)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for line in iter_lines(Path(path), int(max_rows), int(max_bytes)):
            sys.stdout.write(line + "\n")
    except (ArrowException, OSError, ValueError, LimitError) as error:
        return " ".join(str(error).split())
    except MemoryError:
        return f"unfolding it takes more than {_MEMORY_BYTES} bytes of memory"
    return None


def iter_lines(path: Path, max_rows: int, max_bytes: int) -> Iterator[str]:
    """Yield a line for each row; raises LimitError."""
    num_rows = unfolded = 0
    for batch in _iter_batches(path, max_rows):
        num_rows += batch.num_rows
        if num_rows > max_rows:
            raise LimitError(f"it has more than {max_rows} rows, the limit")
        for row in _to_rows(batch):
            line = json.dumps(row, allow_nan=False)
            unfolded += len(line)
            if unfolded > max_bytes:
                raise LimitError(f"its rows take more than {max_bytes} bytes when unfolded")
            yield line


def _iter_batches(path: Path, max_rows: int) -> Iterator[pyarrow.RecordBatch]:
    with path.open("rb") as file:
        magic = file.read(len(_FILE_FORMAT))
    if magic.startswith(b"PAR1"):
        with ParquetFile(path) as parquet:
            if parquet.metadata.num_rows > max_rows:
                rows = parquet.metadata.num_rows
                raise LimitError(f"it has {rows} rows; the limit is {max_rows}")
            yield from parquet.iter_batches(batch_size=_BATCH_ROWS, use_threads=False)
    elif magic == _FILE_FORMAT:
        # Not memory-mapped: that would count against the limit on the address space.
        with ipc.open_file(pyarrow.OSFile(str(path))) as file_format:
            for number in range(file_format.num_record_batches):
                yield from _cut(file_format.get_batch(number))
    else:
        with ipc.open_stream(pyarrow.OSFile(str(path))) as stream:
            for batch in stream:
                yield from _cut(batch)


def _cut(batch: pyarrow.RecordBatch) -> Iterator[pyarrow.RecordBatch]:
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield batch.slice(start, _BATCH_ROWS)


def _to_rows(batch: pyarrow.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows without nulls, and without columns of a type that Python cannot represent."""
    names, columns = [], []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            # The library needs pandas for nanoseconds, so it writes the text of times itself.
            text = (
                compute.cast(column, pyarrow.string()) if types.is_temporal(column.type) else column
            )
            columns.append(text.to_pylist())
        except (ArrowException, ValueError, OverflowError, ImportError, TypeError):
            continue
        names.append(name)
    if not columns:
        columns = [[None] * batch.num_rows]
        names = [""]
    for values in zip(*columns, strict=True):
        row = ((name, _to_json(value)) for name, value in zip(names, values, strict=True))
        yield {name: value for name, value in row if value is not None}


def _to_json(value: Any) -> Any:
    """Return the value as JSON has it: dates and decimals as text; None for null, NaN, bytes and the
    like. Nulls are dropped at every depth: a table has one schema, so missing fields of a row are nulls.
    """
    match value:
        case bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            items = ((str(name), _to_json(item)) for name, item in value.items())
            return {name: item for name, item in items if item is not None}
        case list() | tuple():
            return [_to_json(item) for item in value]
        case date() | datetime() | time():
            return value.isoformat()
        case Decimal() | timedelta():
            return str(value)
        case _:
            return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
