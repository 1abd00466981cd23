import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.common.answers.answer_types import AnswerType
from services.common.data import rows as data_rows
from services.common.data.rows import MAX_PROBLEMS_SHOWN, Message, Row, check_file
from services.common.errors import ProblemsError

Write = Callable[..., Path]
COMPARED = {"reference_answer": "accuracy"}
"""What an accuracy grader reads."""


def read_rows(*args: Any) -> list[Row]:
    return list(data_rows.read_rows(*args))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_rows(*rows: Any) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write_rows


def only(path: Path) -> Row:
    rows = read_rows(path, "rl")
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize(
    ("record", "prompt", "answer", "completion"),
    [
        ({"prompt": "1+1?", "answer": "2"}, "1+1?", "2", None),
        ({"prompt": "1+1?", "answer": 2, "completion": r"\boxed{2}"}, "1+1?", "2", r"\boxed{2}"),
        ({"prompt": "1+1?", "completion": r"It is \boxed{2}."}, "1+1?", "2", r"It is \boxed{2}."),
        (
            {"prompt": "q", "completion": [{"role": "assistant", "content": r"\boxed{2}"}]},
            "q",
            "2",
            r"\boxed{2}",
        ),
        (
            {"question": "q", "answer": "First.\nThen.\n#### 1,080"},
            "q",
            "1,080",
            "First.\nThen.\n\\boxed{1,080}",
        ),
        ({"question": "q", "answer": "7"}, "q", "7", None),
        ({"question": "q", "ground_truth_answer": "7"}, "q", "7", None),
        (
            {"problem": "q", "solution": r"so \boxed{9}", "answer": "3^2"},
            "q",
            "3^2",
            r"so \boxed{9}",
        ),
        (
            {"problem": "q", "solution": r"\boxed{1} or \boxed{\frac{1}{2}}"},
            "q",
            r"\frac{1}{2}",
            None,
        ),
        (
            {"problem": "q", "expected_answer": "70", "reference_solution": "by force"},
            "q",
            "70",
            "by force",
        ),
        ({"problem": "q", "question": "q", "answer": 27.0}, "q", "27", None),
        ({"problem": "q", "answer": 0.25}, "q", "0.25", None),
        (
            {"question": "q", "final_answer": ["$69$,$84$"], "solution": ["first", "second"]},
            "q",
            "69,84",
            "first",
        ),
        (
            {"question": "q", "final_answer": ["1", "2"], "context": "Let $a=1$."},
            "Let $a=1$.\nq",
            "1, 2",
            None,
        ),
        (
            {"Body": "Two birds.", "Question": "How many?", "Answer": 2.0},
            "Two birds. How many?",
            "2",
            None,
        ),
        (
            {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "5"}},
            "q",
            "5",
            None,
        ),
    ],
)
def test_every_known_layout_is_read(
    write: Write, record: dict[str, Any], prompt: str, answer: str, completion: str | None
) -> None:
    row = only(write(record))
    assert row.messages == (Message("user", prompt),)
    assert row.answer == answer
    assert row.completion == (completion if completion is not None else record.get("solution"))


def test_a_conversation_gives_prompt_turns_and_completion(write: Write) -> None:
    turns = [("system", "Be brief."), ("user", "1+1?"), ("assistant", r"\boxed{2}")]
    row = only(write({"messages": [{"role": role, "content": content} for role, content in turns]}))
    assert row.messages == (Message("system", "Be brief."), Message("user", "1+1?"))
    assert row.completion == r"\boxed{2}"
    assert row.answer == "2"
    assert row.prompt_chars == len("Be brief.1+1?")


def test_the_id_is_the_given_one_or_a_digest_of_the_canonical_row(
    write: Write, tmp_path: Path
) -> None:
    given, plain = read_rows(
        write({"id": 7, "prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}), "rl"
    )
    reordered = tmp_path / "reordered.jsonl"
    reordered.write_text('{"answer": "2",   "prompt": "b"}\n')
    assert given.row_id == "7"
    assert len(plain.row_id) == 64
    assert only(reordered).row_id == plain.row_id
    assert (given.number, plain.number) == (1, 2)


def test_a_row_may_set_the_type_of_its_reference_answer(write: Write) -> None:
    row = only(write({"prompt": "q", "gold_answer": "(1,2)", "gold_type": "interval"}))
    assert (row.answer, row.answer_type, row.metadata) == ("(1,2)", AnswerType.INTERVAL, {})


def test_fields_that_are_not_read_are_kept_as_metadata(write: Write) -> None:
    record = {
        "prompt": "q",
        "answer": "1",
        "data_source": "gsm8k",
        "level": 3,
        "metadata": {"split": "train"},
    }
    row = only(write(record))
    assert row.data_source == "gsm8k"
    assert row.metadata == {"level": 3, "split": "train"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "q", "answer": ', "truncated JSON"),
        (b'{"prompt": "q", "answ', "truncated JSON"),
        (b'{"prompt": "q" "answer": "1"}', "is not JSON: Expecting ',' delimiter at character 16"),
        (b'["prompt"]', "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"prompt": "q", "answer": NaN}', "NaN"),
        (b'{"prompt": "q", "prompt": "r", "answer": "1"}', "'prompt' twice"),
        (b'{"prompt": "\xe9", "answer": "1"}', "is not UTF-8"),
        (b'{"prompt": "\\ud800", "answer": "1"}', "surrogate"),
        (b'{"prompt": "q", "answer": true}', "the reference answer is True"),
        (b'{"prompt": "q", "answer": {"a": 1}}', "has no reference answer"),
        (b'{"prompt": "q", "answer": []}', "must be a string, a number or a list"),
        (b'{"prompt": "  ", "answer": "1"}', "the prompt is empty"),
        (b'{"prompt": "q", "answer": ""}', "has no reference answer"),
        (b'{"prompt": "q", "completion": "no box"}', "has no reference answer"),
        (b'{"text": "q", "answer": "1"}', "has no prompt"),
        (b'{"prompt": 3, "answer": "1"}', "the field prompt is int"),
        (
            b'{"prompt": "q", "question": "r", "answer": "1"}',
            "prompt and question have different prompts",
        ),
        (
            b'{"prompt": "q", "answer": "1", "expected_answer": "2"}',
            "have different reference answers",
        ),
        (b'{"prompt": [{"role": "bot", "content": "q"}], "answer": "1"}', "role is 'bot'"),
        (b'{"prompt": [{"content": "q"}], "answer": "1"}', "prompt[0] has no role"),
        (b'{"messages": [{"role": "assistant", "content": "q"}], "answer": "1"}', "no user turn"),
        (b'{"messages": [], "answer": "1"}', "no user turn"),
        (b"[" * 100_000, "not readable JSON"),
        (b'{"prompt": "q", "answer": ' + b"9" * 5000 + b"}", "not readable JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_reason(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "q", "answer": "1"}\n' + line)
    with pytest.raises(ProblemsError) as caught:
        read_rows(path, "rl", COMPARED)
    assert caught.value.code == "dataset_invalid"
    (problem,) = caught.value.problems
    assert problem.path == "row 2"
    assert reason in problem.message


def test_blank_lines_are_skipped_and_the_numbers_are_those_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = '{"prompt": "q", "answer": "1"}\n'
    path.write_text("\n" + row + "\n  \n" + row + '{"answer": "1"}\n' + "\n")
    with pytest.raises(ProblemsError, match="row 6: has no prompt") as caught:
        read_rows(path, "rl")
    assert len(caught.value.problems) == 1
    path.write_text("\n" + row + "\n  \n" + row)
    assert [read.number for read in read_rows(path, "rl")] == [2, 5]


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "q", "answer": "1"}\r\n{"prompt": "q", "answer": "2"}\r\n'
    )
    assert [row.answer for row in read_rows(path, "rl")] == ["1", "2"]


def test_the_first_problems_are_shown_and_all_are_counted(write: Write) -> None:
    with pytest.raises(ProblemsError) as caught:
        read_rows(write(*[{"prompt": "q"}] * 57), "rl", COMPARED)
    assert len(caught.value.problems) == MAX_PROBLEMS_SHOWN
    assert "57 problems" in caught.value.message
    assert "and 37 more" in caught.value.message


def test_what_a_row_needs_depends_on_the_use(write: Write) -> None:
    path = write({"prompt": "q", "completion": "c"})
    assert [row.completion for row in read_rows(path, "sft")] == ["c"]
    for use in ("rl", "eval"):
        with pytest.raises(ProblemsError, match="row 1: has no reference answer"):
            read_rows(path, use, COMPARED)
        assert len(read_rows(path, use)) == 1
    with pytest.raises(ProblemsError, match="row 1: has no completion"):
        read_rows(write({"prompt": "q", "answer": "1"}), "sft")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ProblemsError, match="has no rows"):
        read_rows(path, "sft")
    assert not check_file(path).usable_for("sft")


def test_a_zip_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"PK\x03\x04\n\xff\xfe\n")
    with pytest.raises(ProblemsError, match="the file is a zip archive"):
        read_rows(path, "rl")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="No such file"):
        read_rows(tmp_path / "absent.jsonl", "rl")
    with pytest.raises(ProblemsError, match="the directory has no file named"):
        check_file(tmp_path)


def test_the_report_counts_uses_and_lengths(write: Write) -> None:
    report = check_file(
        write(
            {"prompt": "q", "answer": "1"},
            {"prompt": "longer", "answer": "1", "completion": "four"},
            {"prompt": "q", "completion": "no box"},
        )
    )
    assert (report.rows, report.sft_rows, report.rl_rows) == (3, 2, 2)
    assert (report.longest_prompt_chars, report.longest_completion_chars) == (6, 6)
    assert report.format == "mixed"
    assert report.usable_for("rl")
    assert not report.usable_for("sft")


def test_a_row_reaches_graders_with_every_field_of_the_file(write: Write) -> None:
    row = {
        "prompt": "q",
        "answer": "so 7\n#### 7",
        "tests": [{"input": "1"}],
        "metadata": {"level": 2},
        "source": "own",
    }
    (read,) = read_rows(write(row), "rl")
    messages = [{"role": "user", "content": "q"}]
    assert read.item == {**row, "messages": messages, "reference_answer": "7"}
    own = {"prompt": "q", "reference_answer": {"low": 1}}
    assert read_rows(write(own), "rl")[0].item == {**own, "messages": messages}


def test_a_row_needs_the_fields_that_graders_read(write: Write) -> None:
    path = write({"prompt": "q", "tests": [{"in": 1}]}, {"prompt": "q", "tests": []})
    assert len(read_rows(path, "rl", {"tests": "unit"})) == 2
    with pytest.raises(ProblemsError) as caught:
        read_rows(path, "eval", {"tests": "unit", "tests.0.in": "first"})
    (problem,) = caught.value.problems
    assert problem.path == "row 2"
    assert "no field 'tests.0.in', which the grader 'first' reads" in problem.message


def test_the_report_lists_problems_and_then_nothing_is_usable(write: Write) -> None:
    report = check_file(write({"prompt": "q", "answer": "1"}, *[{"answer": "1"}] * 30))
    assert report.rows == 1
    assert report.num_problems == 30
    assert len(report.problems) == MAX_PROBLEMS_SHOWN
    assert not report.usable_for("rl")


@pytest.mark.skipif(
    "DIRL_TEST_DATA" not in os.environ,
    reason="DIRL_TEST_DATA names no directory of public data sets",
)
def test_public_data_sets_are_read_whole() -> None:
    counts = {}
    for path in sorted(Path(os.environ["DIRL_TEST_DATA"]).glob("*/*.jsonl")):
        report = check_file(path)
        assert report.usable_for("rl"), report.problems
        counts[f"{path.parent.name}/{path.stem}"] = report.rows
    assert counts == {
        "aime24/test": 30, "aime25/test": 30, "amc23/test": 40, "gsm8k/test": 1319, "gsm8k/train": 7473,
        "math500/test": 500, "olympiadbench/test": 675, "svamp/test": 1000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.parquet", b"\x00\xff\xfe", "is named .parquet, but does not begin as one"),
        ("rows.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        ("rows.parquet", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("rows.csv", b"<!doctype html>\n<html></html>", "HTML or XML"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ProblemsError, match=reason):
        read_rows(tmp_path / name, "rl")
