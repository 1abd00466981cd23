"""Rows of a Parquet file as the JSON objects that they stand for; read batch by batch, never whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from services.common.data.fields import FieldError

MAGIC: Final = b"PAR1"
_BATCH_ROWS: Final = 1024
_MAX_GROUP_BYTES: Final = 2 * 2**30
"""Uncompressed, by the file's own word: a small file may unfold into one that no memory holds."""


def is_parquet(path: Path) -> bool:
    """Whether the file begins as Parquet does; raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def iter_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Every row as plain values; fields without a value are absent, as they are from a line of
    JSON.

    Raises FieldError for a file that is damaged or unfolds too far.
    """
    try:
        with ParquetFile(path) as file:
            _require_bounded(file)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from (_without_nulls(row) for row in batch.to_pylist())
    except (ArrowException, OSError, ValueError) as error:
        raise FieldError(f"cannot be read as Parquet: {error}; write the file again") from None


def _require_bounded(file: ParquetFile) -> None:
    groups = range(file.metadata.num_row_groups)
    largest = max((file.metadata.row_group(index).total_byte_size for index in groups), default=0)
    if largest > _MAX_GROUP_BYTES:
        raise ValueError(
            f"a row group unfolds to {largest} bytes, and {_MAX_GROUP_BYTES} are taken"
        )


def _without_nulls(value: Any) -> Any:
    """Parquet has one schema for all rows, so a row's absent fields come as nulls, at every depth."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
