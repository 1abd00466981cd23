"""Formats of data files: the same records from each, exact positions in errors, and bounds."""

import csv
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from services.common.data import records
from services.common.data.records import iter_records
from services.common.data.row_errors import FieldError
from services.common.data.rows import check_file

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROWS = [{"prompt": f'p"{number}", é\n', "answer": str(number)} for number in range(300)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def contents(path: Path) -> list[Any]:
    return [record.content for record in iter_records(path)]


def error_of(path: Path) -> tuple[str, str]:
    """Position and reason of the only record that cannot be read."""
    (found,) = [record for record in iter_records(path) if isinstance(record.content, FieldError)]
    return found.place, str(found.content)


def write_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_arrow(path: Path, make: Callable[..., Any]) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    with make(str(path), table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda path: path.write_bytes(LINES),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "indented.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "objects.json": lambda path: path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS)),
    "bom.json": lambda path: path.write_bytes(b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode()),
    "lines.json": lambda path: path.write_bytes(LINES),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "rows.jsonl.zst": lambda path: path.write_bytes(zstd.compress(LINES)),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "unnamed": lambda path: path.write_bytes(zstd.compress(LINES)),
    "rows.csv": write_csv,
    "semicolons.csv": lambda path: write_csv(path, ";"),
    "rows.tsv": lambda path: write_csv(path, "\t"),
    "rows.parquet": lambda path: parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
    "stream.arrow": lambda path: write_arrow(path, ipc.new_stream),
    "file.arrow": lambda path: write_arrow(path, ipc.new_file),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Values that reach over the borders of what is read at once.
    monkeypatch.setattr(records, "_CHUNK", 37)
    path = tmp_path / name
    WRITERS[name](path)
    assert contents(path) == ROWS
    assert [record.number for record in iter_records(path)][-1] in (
        len(ROWS),
        len(ROWS) + name.endswith(".csv"),
    )


def test_compressed_csv_is_read(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv")
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress((tmp_path / "rows.csv").read_bytes()))
    assert contents(path) == ROWS


def test_directories_and_globs_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    shards = tmp_path / "data"
    (shards / "sub").mkdir(parents=True)
    (shards / ".cache").mkdir()
    (shards / "train-00001.jsonl.gz").write_bytes(gzip.compress(LINES))
    parquet.write_table(pyarrow.Table.from_pylist(ROWS[:2]), shards / "train-00000.parquet")
    (shards / "sub" / "x.jsonl").write_text('{"prompt": "last", "answer": "1"}\nno\n')
    (shards / ".cache" / "y.jsonl").write_text("no\n")
    (shards / "state.json").write_text("{}")
    (shards / "README.md").write_text("# Data")

    found = list(iter_records(shards))

    assert len(found) == 1 + 1 + 2 + len(ROWS)
    assert found[0].content == {"prompt": "last", "answer": "1"}
    assert error_of(shards)[0] == "sub/x.jsonl row 2"
    assert [record.number for record in found] == list(range(1, len(found) + 1))
    assert found[-1].place == f"train-00001.jsonl.gz row {len(ROWS)}"
    assert contents(tmp_path / "data" / "train-*") == [*ROWS[:2], *ROWS]
    with pytest.raises(OSError, match="no file matches"):
        list(iter_records(tmp_path / "data" / "test-*"))


@pytest.mark.parametrize(
    ("name", "content", "place", "reason"),
    [
        ("a.json", b'[{"a": 1}, {"b": 2}', "row 3", "the row before ends before the array does"),
        ("a.json", b'[{"a": 1}, {"b": ', "row 2", "truncated JSON"),
        ("a.json", b'[{"a": 1} {"b": 2}]', "row 2", "has '{' after it"),
        ("a.json", b'[{"a": 1}, {"b" 2}]', "row 2", "Expecting ':' delimiter at character 6"),
        ("a.json", b'[{"a": 1}, {"b": NaN}]', "row 2", "NaN"),
        ("a.json", b'[{"a": 1}, 7]', "row 2", "is 7, not a JSON object"),
        ("a.json", b'[{"a": 1}, {"b": 1, "b": 2}]', "row 2", "'b' twice"),
        ("a.json", b'[{"a": 1}, {"b": "\xe9"}]', "row 1", "is not UTF-8"),
        ("a.csv", b"a,b\n1,2\n3\n", "row 2 (line 3)", "has 1 cells; the header has 2"),
        ("a.csv", b"a,a\n1,2\n", "row 1", "has a name twice"),
        ("a.csv", b'a,b\n1,2\n"3"x,4\n', "row 2", "is not CSV"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0)[:-3], "row 1", "cannot be decompressed"),
        ("a.jsonl.zst", zstd.compress(b'{"a": 1}\n')[:-3], "row 1", "cannot be decompressed"),
        ("a.arrow", b"\xff\xff\xff\xff\x10\x00\x00\x00", "row 1", "cannot be read as Arrow"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_by_its_position(
    tmp_path: Path, name: str, content: bytes, place: str, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found_place, found_reason = error_of(path)
    assert (found_place, reason in found_reason) == (place, True), found_reason


def test_a_row_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_ROW_BYTES", 1000)
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": "x" * 2000}))
    assert "more than 1000 bytes" in error_of(tmp_path / "a.jsonl")[1]
    monkeypatch.setattr(records, "_CHUNK", 100)
    (tmp_path / "a.json").write_text(json.dumps([{"a": "x" * 9000}]))
    assert "more than 1000 characters" in error_of(tmp_path / "a.json")[1]


def test_a_file_of_kilobytes_that_decompresses_to_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.zst"
    row = json.dumps({"prompt": "q" * 100_000, "answer": "1"}).encode()
    path.write_bytes(zstd.compress((row + b"\n") * 10_000))
    assert path.stat().st_size < 500_000
    report = check_file(path)
    assert "takes more than 67108864 bytes when decompressed" in str(report.problems[0])


def test_the_text_of_a_json_array_does_not_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS * 100))
    monkeypatch.setattr(records, "_CHUNK", 4096)
    longest = 0
    read_more = records._JsonText._read_more

    def measure(text: Any) -> bool:
        nonlocal longest
        more = read_more(text)
        longest = max(longest, len(text._window))
        return more

    monkeypatch.setattr(records._JsonText, "_read_more", measure)
    assert len(contents(path)) == 100 * len(ROWS)
    assert longest < 3 * 4096
