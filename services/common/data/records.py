"""Read the records of data files: JSON lines, JSON arrays, CSV, Parquet and Arrow, single files, directories
and globs of shards. One record is in memory at a time, whatever the size of the file.

Files of text may be compressed with gzip or Zstandard.
"""

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from services.common.data.row_errors import FieldError, shorten
from services.common.data.tables import MAX_RATIO, MIN_UNFOLDED_BYTES, is_table, iter_table
from services.common.errors import Problem, ProblemsError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_ROW_BYTES: Final = 128 * 2**20
_CHUNK: Final = 2**20
_BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZIP: Final = b"PK\x03\x04"
_LFS: Final = b"version https://git-lfs"
_TABLES: Final = (".parquet", ".arrow", ".feather")
_FORMATS: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_COMPRESSIONS: Final = ("", ".gz", ".zst")
SHARD_SUFFIXES: Final = (
    ".parquet",
    ".arrow",
    *(form + compression for form in _FORMATS for compression in _COMPRESSIONS),
)
"""Names of the files that are read in a directory."""
_DESCRIPTIONS: Final = frozenset({"dataset_info.json", "state.json", "dataset_dict.json"})
"""Files that `datasets` writes next to the shards."""
_DELIMITERS: Final = {".tsv": "\t"}

Record = dict[str, Any]


@dataclass(frozen=True)
class Numbered:
    """A record with its position, or why it cannot be read."""

    number: int
    """Line of a file of JSON lines, row of any other file, from 1; counted through all shards."""
    place: str
    """Position as errors name it."""
    content: Record | FieldError


def list_shards(path: Path) -> list[Path]:
    """Return the files that a path stands for: itself, those in a directory, or those that match a glob.

    Raises OSError when there are none.
    """
    if path.is_dir():
        found = [
            file
            for file in sorted(path.rglob("*"))
            if file.name.endswith(SHARD_SUFFIXES)
            and file.name not in _DESCRIPTIONS
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        if not found:
            raise OSError(f"the directory has no file named *{', *'.join(SHARD_SUFFIXES)}")
        return found
    if has_magic(str(path)) and not path.exists():
        found = [Path(name) for name in sorted(glob(str(path), recursive=True))]
        if not found:
            raise OSError("no file matches")
        return [file for match in found for file in list_shards(match)]
    return [path]


def iter_records(path: Path) -> Iterator[Numbered]:
    """Yield the records of a file, or of all shards in the order of their names.

    Raises OSError for a file that cannot be opened. A file that is damaged ends with a FieldError.
    """
    shards = list_shards(path)
    if len(shards) == 1:
        yield from _iter_file(shards[0])
        return
    before = 0
    for shard in shards:
        name = shard.relative_to(path) if path.is_dir() else shard.name
        number = 0
        for number, record in enumerate(_iter_file(shard), start=1):
            yield Numbered(before + number, f"{name} {record.place}", record.content)
        before += number


def merge_shards(path: Path, target: Path) -> int:
    """Write the records of all shards as JSON lines with gzip, and count them.

    Raises ProblemsError("dataset_invalid") with every record that cannot be read, OSError.
    """
    problems, num_records = [], 0
    with gzip.open(target, "wt", encoding="utf-8", compresslevel=1) as file:
        for record in iter_records(path):
            if isinstance(record.content, FieldError):
                problems.append(Problem(record.place, str(record.content)))
                continue
            file.write(json.dumps(record.content) + "\n")
            num_records += 1
    if problems:
        raise ProblemsError("dataset_invalid", f"The data in {path} cannot be used", problems)
    return num_records


def _iter_file(path: Path) -> Iterator[Numbered]:
    number = 0
    try:
        for numbered in _iter_format(path):
            number = numbered.number
            yield numbered
    except FieldError as error:
        yield _row(number + 1, error)
    except UnicodeDecodeError as error:
        yield _row(number + 1, _describe_encoding(error))
    except (EOFError, gzip.BadGzipFile, zstd.ZstdError) as error:
        yield _row(
            number + 1, FieldError(f"cannot be decompressed: {error}; compress the file again")
        )


def _iter_format(path: Path) -> Iterator[Numbered]:
    if is_table(path):
        yield from (_row(*line) for line in _parse_lines(enumerate(iter_table(path), start=1)))
        return
    name = path.name.removesuffix(".gz").removesuffix(".zst").lower()
    with _open_text(path) as file:
        suffix = name[name.rfind(".") :]
        beginning = _first_line(file)
        if beginning.startswith(_ZIP):
            raise FieldError("the file is a zip archive; unpack it, or compress it with gzip")
        if beginning.startswith(_LFS):
            raise FieldError(
                "the file is a pointer of Git LFS; download the data, e.g. `git lfs pull`"
            )
        if beginning.startswith(b"<"):
            raise FieldError(
                "the file is HTML or XML, such as a page about an error; download it again"
            )
        if suffix in _TABLES:
            raise FieldError(
                f"the file is named {suffix}, but does not begin as one; download it again"
            )
        if suffix in (".csv", ".tsv"):
            with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
                yield from _iter_csv(text, _DELIMITERS.get(suffix))
        elif beginning.startswith(b"["):
            with io.TextIOWrapper(file, encoding="utf-8-sig") as text:
                yield from _iter_array(_JsonText(text))
        elif beginning == b"{":
            with io.TextIOWrapper(file, encoding="utf-8-sig") as text:
                yield from _iter_objects(_JsonText(text))
        else:
            yield from (_row(*line) for line in _parse_lines(_iter_lines(file)))


def _row(number: int, content: Record | FieldError) -> Numbered:
    return Numbered(number, f"row {number}", content)


class _Bounded(io.RawIOBase):
    """Decompressed bytes, up to a limit."""

    def __init__(self, source: BinaryIO, max_bytes: int) -> None:
        self._source, self._left, self._max_bytes = source, max_bytes, max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        chunk = self._source.read(len(target))
        self._left -= len(chunk)
        if self._left < 0:
            raise FieldError(f"the file takes more than {self._max_bytes} bytes when decompressed")
        target[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._source.close()
        super().close()


def _open_text(path: Path) -> io.BufferedReader:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(_GZIP):
        source: Any = gzip.open(path, "rb")  # noqa: SIM115  # the caller closes it
    elif magic == _ZSTD:
        source = zstd.open(path, "rb")
    else:
        return path.open("rb")
    limit = max(MIN_UNFOLDED_BYTES, MAX_RATIO * path.stat().st_size)
    return io.BufferedReader(_Bounded(source, limit), _CHUNK)


def _first_line(file: io.BufferedReader) -> bytes:
    """Return the first line with content, without reading it."""
    return file.peek(_CHUNK).removeprefix(_BOM).lstrip().partition(b"\n")[0].strip()


def _iter_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the numbered lines that are not blank."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES), b""), start=1):
        if len(line) == MAX_ROW_BYTES:
            raise FieldError(f"the line has more than {MAX_ROW_BYTES} bytes")
        content = line.removeprefix(_BOM) if number == 1 else line
        if not content.isspace():
            yield number, content


def _parse_lines(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, Record | FieldError]]:
    for number, line in lines:
        try:
            yield number, _require_object(_parse_line(line))
        except FieldError as error:
            yield number, error


def _parse_line(line: bytes) -> Any:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
        return _DECODER.decode(text)
    except FieldError:
        raise
    except UnicodeDecodeError as error:
        raise _describe_encoding(error) from None
    except json.JSONDecodeError as error:
        raise FieldError(_describe_json_error(error, text, line)) from None
    except (ValueError, RecursionError) as error:
        raise FieldError(f"is not readable JSON: {error}") from None


def _describe_encoding(error: UnicodeDecodeError) -> FieldError:
    return FieldError(
        f"is not UTF-8 (byte {error.start}: {error.reason}); convert the file to UTF-8"
    )


def _describe_json_error(error: json.JSONDecodeError, text: str, line: bytes) -> str:
    if error.pos >= len(text.rstrip()) or "Unterminated" in error.msg:
        cut = "" if line.endswith(b"\n") else ", and the file is truncated"
        return f"is truncated JSON: it ends in the middle of a value{cut}"
    near = shorten(text[error.pos : error.pos + 20])
    return f"is not JSON: {error.msg} at character {error.pos + 1}, near {near}"


def _require_object(value: Any) -> Record:
    if not isinstance(value, dict):
        raise FieldError(f"is {shorten(value)}, not a JSON object; write one object per row")
    return value


def _reject_constant(name: str) -> Any:
    raise FieldError(f"has {name}, which is not valid JSON")


def _require_unique_keys(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise FieldError(f"has the field {twice!r} twice; keep one of them")
    return record


_DECODER: Final = json.JSONDecoder(
    parse_constant=_reject_constant, object_pairs_hook=_require_unique_keys
)


class _JsonText:
    """A window on the text of a file of JSON values."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self._window = ""
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            while self._window[self._at : self._at + 1] in _WHITE_SPACE:
                self._at += 1
            if self._at < len(self._window) or not self._read_more():
                return self._window[self._at : self._at + 1]

    def skip(self) -> None:
        """Step over a character."""
        self._at += 1

    def next_object(self) -> Record:
        """Parse the object at the position; raises FieldError."""
        self.peek()
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._window, self._at)
                return _require_object(value)
            except json.JSONDecodeError as error:
                place = error.pos - self._at
                # Text that ends in the middle of a value; other errors are found before its end.
                is_cut = len(self._window) - error.pos < _CUT_CHARS or "Unterminated" in error.msg
                if not is_cut or not self._read_more():
                    rest = self._window[self._at :]
                    shifted = json.JSONDecodeError(error.msg, rest, place)
                    raise FieldError(_describe_json_error(shifted, rest, b"")) from None
            except FieldError:
                raise
            except (ValueError, RecursionError) as error:
                raise FieldError(f"is not readable JSON: {error}") from None

    def _read_more(self) -> bool:
        rest = self._window[self._at :]
        if len(rest) > MAX_ROW_BYTES:
            raise FieldError(f"has more than {MAX_ROW_BYTES} characters")
        # Twice as much each time: a long value is not parsed from its start once for every chunk.
        more = self._text.read(max(_CHUNK, len(rest)))
        self._window, self._at = rest + more, 0
        return bool(more)


_WHITE_SPACE: Final = frozenset(" \t\r\n")
_CUT_CHARS: Final = 16
"""Longer than any token of JSON but strings."""


def _iter_array(text: _JsonText) -> Iterator[Numbered]:
    text.peek()
    text.skip()
    number = 0
    while (following := text.peek()) != "]":
        if number and following != ",":
            what = "ends before the array does" if not following else f"has {following!r} after it"
            raise FieldError(
                f"is not in a JSON array: the row before {what}; a comma or ] is needed"
            )
        if number:
            text.skip()
        number += 1
        yield _row(number, text.next_object())


def _iter_objects(text: _JsonText) -> Iterator[Numbered]:
    """Yield objects that stand one after the other over several lines."""
    number = 0
    while text.peek():
        number += 1
        yield _row(number, text.next_object())


def _iter_csv(text: IO[str], delimiter: str | None) -> Iterator[Numbered]:
    # Process-wide; the default of 128 KiB is less than a long solution.
    csv.field_size_limit(MAX_ROW_BYTES)
    header = text.readline()
    separator = delimiter or (";" if "," not in header and ";" in header else ",")
    names = next(csv.reader([header], delimiter=separator), [])
    if len(set(names)) < len(names):
        raise FieldError(f"the header {shorten(header.strip())} has a name twice")
    reader = csv.reader(text, delimiter=separator, strict=True)
    number = 0
    try:
        for cells in reader:
            if not cells:
                continue
            number += 1
            place = f"row {number} (line {reader.line_num + 1})"
            yield Numbered(number, place, _to_record(names, cells))
    except csv.Error as error:
        raise FieldError(
            f"is not CSV: {error}; quote cells that have quotes or line ends"
        ) from None


def _to_record(names: list[str], cells: list[str]) -> Record | FieldError:
    if len(cells) != len(names):
        return FieldError(f"has {len(cells)} cells; the header has {len(names)}")
    return dict(zip(names, cells, strict=True))
