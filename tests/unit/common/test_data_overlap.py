"""Equal prompts within a file and between training and validation."""

import json
from pathlib import Path

from services.common.data.overlap import DuplicateCounter, OverlapCounter
from services.common.data.rows import iter_rows

LONG = "a farmer has three pens with four hens each and sells two hens on the market today how many are left"


def write(path: Path, prompts: list[str]) -> Path:
    path.write_text(
        "".join(json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts)
    )
    return path


def test_rows_with_the_prompt_of_an_earlier_row_are_counted(tmp_path: Path) -> None:
    counter = DuplicateCounter()
    for row in iter_rows(
        write(tmp_path / "a.jsonl", ["How many?", "Else", "how  many", "Else.", "Else"])
    ):
        counter.add(row)
    assert counter.found.count == 3
    assert counter.found.examples == [("row 3", "row 1"), ("row 4", "row 2"), ("row 5", "row 2")]


def test_validation_rows_that_training_gives_away_are_counted(tmp_path: Path) -> None:
    validation = write(
        tmp_path / "v.jsonl", ["1+1?", LONG, "Solve: " + LONG.upper(), "new", LONG[:50]]
    )
    training = write(
        tmp_path / "t.jsonl", ["2+2?", "1 + 1?", "1+1 ?", "Given that " + LONG + " in all?", "1+1?"]
    )
    counter = OverlapCounter(iter_rows(validation))
    for row in iter_rows(training):
        counter.add(row)
    found = counter.result()
    assert (found.validation_rows, found.exact, found.ngram) == (5, 1, 3)
    assert found.examples == [("row 1", "row 3"), ("row 2", "row 4"), ("row 3", "row 4")]
