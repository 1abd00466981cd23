"""Which rows of a file are taken: `data.filter`, `data.max_rows` and `data.split_validation`."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.common.data.reading import Reading, Split
from services.common.data.row_filter import RowFilter
from services.common.data.rows import check_file, read_rows
from services.common.errors import ProblemsError
from services.common.job_spec import JobSpec, parse_spec

ROWS = [
    {"prompt": f"{n}?", "answer": str(n), "difficulty": n, "extra": {"level": n % 3}, "source": "ab"[n % 2]}
    for n in range(200)
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def answers(path: Path, **selection: Any) -> list[int]:
    return [int(row.answer or "") for row in read_rows(path, "rl", reading=Reading(**selection))]


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("difficulty >= 198", [198, 199]),
        ("extra.level == 1 and difficulty < 5", [1, 4]),
        ("source in ['b'] and not difficulty > 3", [1, 3]),
        ("float(answer) / 2 == 50 or len(prompt) == 2 and difficulty == 7", [7, 100]),
        ("'19' in prompt and difficulty < 100", [19]),
        ("difficulty > 2 and score != None or difficulty == 1", [1]),
    ],
)
def test_the_filter_takes_rows_by_their_fields(
    tmp_path: Path, path: Path, expression: str, kept: list[int]
) -> None:
    if "score" in expression:
        path.write_text(path.read_text() + json.dumps({**ROWS[0], "score": None}) + "\n")
    assert answers(path, filter=expression) == kept


def test_a_row_without_the_field_is_neither_less_nor_more(path: Path) -> None:
    path.write_text(json.dumps({"prompt": "q", "answer": "7"}) + "\n" + path.read_text())
    assert answers(path, filter="difficulty <= 1") == [0, 1]
    assert answers(path, filter="not difficulty <= 198") == [7, 199]


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("dificulty > 3", "reads dificulty, which none of the rows has"),
        ("dificulty != 3", "reads dificulty, which none of the rows has"),
        ("difficulty > 1000", "leaves none of the 200 rows"),
        ("answer > 3", "row 1: data.filter 'answer > 3' cannot be evaluated"),
        ("1 / (difficulty - 3) > 0", "row 4: data.filter"),
    ],
)
def test_a_filter_that_cannot_select_is_refused(path: Path, expression: str, reason: str) -> None:
    with pytest.raises(ProblemsError) as caught:
        answers(path, filter=expression)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        "", "a b", "a; b", "a = 1", "lambda: 1", "[x for x in y]", "f'{a:1000000000}'", "'%1000d' % 1",
        "9 ** 9", "1 << 9", "open('x')", "a.upper()", "().__class__.__bases__", "__import__('os')", "{'a': 1}",
        "(x := 1)", "len(a=1)", "str.upper(a)", "a" * 3000,
    ],
)  # fmt: skip
def test_what_is_not_a_condition_on_fields_is_refused(expression: str) -> None:
    if expression == "().__class__.__bases__":
        # A path through fields, which no row has.
        assert not RowFilter(expression).matches({})
        return
    if expression == "len(a=1)":
        with pytest.raises(ValueError, match="cannot be evaluated"):
            RowFilter(expression).matches({"a": 1})
        return
    with pytest.raises(ValueError, match=r".+"):
        RowFilter(expression)


def test_max_rows_counts_what_the_filter_takes(path: Path) -> None:
    assert answers(path, filter="difficulty >= 10", max_rows=3) == [10, 11, 12]
    # What is behind the last row is not read.
    path.write_text(path.read_text() + "no json\n")
    assert len(answers(path, max_rows=200)) == 200
    assert check_file(path, Reading(max_rows=5)).rows == 5


def test_a_split_divides_the_rows_and_keeps_equal_ones_together(path: Path) -> None:
    path.write_text(path.read_text() * 2)
    sides = [answers(path, split=Split(side, 0.2, seed=1)) for side in ("train", "validation")]
    train, validation = sides
    assert sorted(train + validation) == sorted([*range(200)] * 2)
    assert not set(train) & set(validation)
    assert 40 <= len(validation) <= 120
    assert answers(path, split=Split("validation", 0.2, seed=1)) == validation
    assert answers(path, split=Split("validation", 0.2, seed=2)) != validation


def test_a_split_without_a_row_is_refused(path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"data\.split_validation leaves none of the 200 rows"):
        answers(path, split=Split("validation", 1e-9, seed=0))


def spec(**keys: Any) -> JobSpec:
    return parse_spec({"model": "m", "method": "pipeline", "training_file": "t", **keys})


def test_the_split_of_a_job_takes_the_training_file() -> None:
    split = spec(data={"split_validation": 0.02}, seed=7)
    assert split.validation_file == "t"
    assert split.reading_of("t", validates=True).split == Split("validation", 0.02, 7)
    assert split.reading_of("t", validates=False).split == Split("train", 0.02, 7)
    # A file of a stage's own has no validation rows.
    assert split.reading_of("other", validates=False).split is None
    assert parse_spec(split.model_dump(mode="json")) == split


@pytest.mark.parametrize(
    "keys",
    [
        {"validation_file": "v", "data": {"split_validation": 0.1}},
        {"training_file": None, "training_mixture": [{"file": "t"}], "data": {"split_validation": 0.1}},
        {"validation_data": {}, "data": {"split_validation": 0.1}},
        {"validation_file": "v", "data": {"split_validation": 1}},
        {"validation_file": "v", "data": {"filter": "a b"}},
        {"validation_file": "v", "data": {"fields": {"prompt": "{a"}}},
        {"validation_file": "v", "data": {"fields": {"prompt": "{a:5}"}}},
        {"validation_file": "v", "data": {"fields": {"prompt": "a", "messages": "b"}}},
        {"validation_file": "v", "data": {"fields": {"promt": "a"}}},
        {"validation_file": "v", "data": {"max_rows": 0}},
    ],
)  # fmt: skip
def test_contradictory_keys_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ProblemsError, match=r"data|training_file"):
        spec(**keys)


def test_validation_files_may_be_read_otherwise() -> None:
    own = {"fields": {"prompt": "question"}}
    job = spec(validation_file="v", data={"fields": {"prompt": "query"}}, validation_data=own)
    assert job.reading_of("t", validates=False).fields["prompt"].expression == "query"
    assert job.reading_of("v", validates=True).fields["prompt"].expression == "question"
    shared = spec(validation_file="v", data={"max_rows": 3})
    assert shared.reading_of("v", validates=True).max_rows == 3
