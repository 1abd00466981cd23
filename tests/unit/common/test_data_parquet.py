"""Parquet files: the same rows as from JSON lines, the same refusals, and no row group beyond the
bound.
"""

import datetime
import decimal
import json
import math
import resource
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pytest
from pyarrow import parquet

from services.common.data import rows as data_rows
from services.common.data import tables as reader
from services.common.data.row_errors import FieldError
from services.common.data.rows import Row, check_file, iter_rows
from services.common.errors import ProblemsError

ROWS: list[dict[str, Any]] = [
    {"prompt": "1+1?", "answer": "2", "metadata": {"level": 1}},
    {"prompt": "2+2?", "answer": "4", "id": "mine", "completion": r"\boxed{4}"},
]


def read_rows(path: Path, needs: data_rows.Needs) -> list[Row]:
    return list(data_rows.read_rows(path, needs))


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def test_rows_are_those_of_the_same_objects_as_json_lines(tmp_path: Path) -> None:
    # pyarrow takes the columns from the first row alone
    columns = {name: None for row in ROWS for name in row}
    stored = write(tmp_path / "rows.parquet", [{**columns, **row} for row in ROWS])
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert list(iter_rows(stored)) == list(iter_rows(lines))


def test_verls_layout_is_read(tmp_path: Path) -> None:
    row = {
        "data_source": "gsm8k",
        "prompt": [{"role": "user", "content": "3+4?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "7"},
        "extra_info": {"split": "train", "index": 0},
    }
    (read,) = read_rows(write(tmp_path / "train.parquet", [row]), "rl")
    assert (read.messages[0].content, read.answer, read.data_source) == ("3+4?", "7", "gsm8k")


def test_a_faulty_row_is_named_by_its_number_across_batches(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "answer": str(n)} for n in range(3000)]
    rows[2500]["prompt"] = " "
    with pytest.raises(ProblemsError, match="row 2501: the prompt is empty"):
        read_rows(write(tmp_path / "rows.parquet", rows, row_group_size=700), "rl")


def test_columns_of_any_type_are_ignored_or_read_as_text(tmp_path: Path) -> None:
    nanoseconds = pyarrow.array([1_700_000_000_000_000_001], pyarrow.timestamp("ns"))
    columns = {
        "prompt": ["q"],
        "answer": [decimal.Decimal("1.50")],
        "day": [datetime.date(2026, 1, 1)],
        "at": nanoseconds,
        "lasting": pyarrow.array([5], pyarrow.duration("ns")),
        "image": [b"\xff\xd8"],
        "picture": [{"bytes": b"\xff", "path": "a.png"}],
        "score": [math.nan],
        "map": pyarrow.array([[("k", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        "code": pyarrow.array(["x"]).dictionary_encode(),
        "half": pyarrow.array([1.5], pyarrow.float16()),
        "nothing": pyarrow.nulls(1),
        "year 20000": pyarrow.array([600_000_000_000], pyarrow.timestamp("s")),
    }
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), path)

    (row,) = read_rows(path, "rl")

    assert (row.messages[0].content, row.answer) == ("q", "1.50")
    assert row.metadata["day"] == "2026-01-01"
    assert row.metadata["at"].startswith("2023-11-14")
    assert row.metadata["picture"] == {"path": "a.png"}
    assert not {"image", "score", "nothing"} & row.metadata.keys()
    assert row.metadata["code"] == "x"


def test_a_table_of_unreadable_columns_has_rows_without_fields(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"image": [b"\xff", b"\xfe"]}), path)
    with pytest.raises(ProblemsError, match="row 2: has no prompt"):
        read_rows(path, "sft")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS[:1])
    path.write_bytes(path.read_bytes()[:-20])
    report = check_file(path)
    assert report.num_problems == 1
    assert "cannot be read as Parquet" in str(report.problems[0])


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(ProblemsError, match="has no rows"):
        read_rows(path, "sft")


def test_a_file_of_kilobytes_that_unfolds_to_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    # One text of 1 MiB, and a thousand references to it.
    column = pyarrow.array(["x" * 2**20]).dictionary_encode().take(pyarrow.array([0] * 1024))
    parquet.write_table(
        pyarrow.table({"prompt": column}), path, compression="zstd", dictionary_pagesize_limit=2**24
    )
    assert path.stat().st_size < 10_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(FieldError, match="more than 67108864 bytes when unfolded"):
        for _ in reader.iter_table(path):
            pass

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_file_with_too_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.parquet", [{"prompt": "x", "answer": "1"}] * 500)
    monkeypatch.setattr(reader, "MAX_ROWS", 100)
    with pytest.raises(ProblemsError, match="it has 500 rows; the limit is 100"):
        read_rows(path, "rl")


def test_a_reader_that_takes_too_long_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"prompt": pyarrow.array(["xy"] * 2_000_000)}), path)
    monkeypatch.setattr(reader, "_MIN_CPU_S", 1)
    monkeypatch.setattr(reader, "_CPU_S_PER_MIB", 0)
    with pytest.raises(FieldError, match="cannot be read as Parquet within 1 s"):
        list(reader.iter_table(path))


def test_no_process_is_left_when_the_caller_stops_early(tmp_path: Path) -> None:
    others = psutil.Process().children()
    rows = iter_rows(write(tmp_path / "rows.parquet", ROWS[:1] * 50_000))
    next(rows)
    assert len(psutil.Process().children()) == len(others) + 1

    del rows

    assert psutil.Process().children() == others
