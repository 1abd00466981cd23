"""Read the rows of a Parquet file as JSON objects, in batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from services.common.data.fields import FieldError

MAGIC: Final = b"PAR1"
_BATCH_ROWS: Final = 1024
_MAX_GROUP_BYTES: Final = 2 * 2**30
"""Uncompressed size that the file declares. A small file may decompress to more than the memory."""


def is_parquet(path: Path) -> bool:
    """Whether the file starts with the magic bytes of Parquet; raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def iter_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows as plain values, without null fields.

    Raises FieldError for a file that is damaged or too large when decompressed.
    """
    try:
        with ParquetFile(path) as file:
            metadata = file.metadata
            sizes = [
                metadata.row_group(index).total_byte_size
                for index in range(metadata.num_row_groups)
            ]
            largest = max(sizes, default=0)
            if largest > _MAX_GROUP_BYTES:
                raise ValueError(
                    f"a row group decompresses to {largest} bytes; the limit is {_MAX_GROUP_BYTES}"
                )
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from (_drop_nulls(row) for row in batch.to_pylist())
    except (ArrowException, OSError, ValueError) as error:
        raise FieldError(f"cannot be read as Parquet: {error}; write the file again") from None


def _drop_nulls(value: Any) -> Any:
    """Drop nulls at every depth: Parquet has one schema, so missing fields of a row are nulls."""
    if isinstance(value, dict):
        return {name: _drop_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_drop_nulls(item) for item in value]
    return value
