"""Tests of programming problems, as public data sets write them."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from services.common.data.program_tests import (
    ProgramTest,
    complete_program,
    find_program,
    outputs_match,
    read_program_tests,
    values_match,
)
from services.common.data.rows import read_rows
from services.common.errors import ProblemsError
from services.common.grader_spec import parse_graders, row_checks

LCB_CASE = {"input": "3\n", "output": "6\n", "testtype": "stdin"}


def pack(value: Any) -> str:
    """As LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def test_livecodebench_with_packed_private_tests() -> None:
    item = {
        "public_test_cases": json.dumps([LCB_CASE]),
        "private_test_cases": pack(json.dumps([LCB_CASE])),
        "metadata": "{}",
    }
    assert (
        read_program_tests(item) == (ProgramTest(kind="program", stdin="3\n", expected="6\n"),) * 2
    )


def test_livecodebench_calls_a_function_with_one_argument_a_line() -> None:
    case = {"input": '[1, 2]\n"x"', "output": "[3]", "testtype": "functional"}
    item = {"public_test_cases": json.dumps([case]), "metadata": json.dumps({"func_name": "solve"})}
    expected = ProgramTest(kind="function", function="solve", arguments=([1, 2], "x"), expected=[3])
    assert read_program_tests(item) == (expected,)


@pytest.mark.parametrize(
    "packed", [pack(Path("/etc/passwd")), pack([1]), "not base64!", base64.b64encode(b"x").decode()]
)
def test_a_private_test_that_is_not_text_is_refused_and_no_class_is_loaded(packed: str) -> None:
    with pytest.raises(ValueError, match="private_test_cases"):
        read_program_tests({"private_test_cases": packed, "metadata": "{}"})


def test_apps_with_scripts_and_calls() -> None:
    scripts = {"inputs": ["1\n2\n", ["3", "4"]], "outputs": ["3\n", ["7"]]}
    assert [test.stdin for test in read_program_tests({"input_output": json.dumps(scripts)})] == [
        "1\n2\n",
        "3\n4",
    ]
    calls = {"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]}
    (test,) = read_program_tests({"input_output": calls})
    assert (test.function, test.arguments) == ("add", (1, 2))
    assert values_match(3, test.expected)
    assert not values_match(4, test.expected)


def test_humaneval_calls_check_and_completes_its_prompt() -> None:
    item = {
        "prompt": "def add(a, b):\n",
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    }
    (test,) = read_program_tests(item)
    assert test.kind == "assertions"
    assert test.code.endswith("check(add)\n")
    assert complete_program("    return a + b", item) == "def add(a, b):\n    return a + b"
    assert complete_program("def add(a, b): return a + b", item) == "def add(a, b): return a + b"


def test_mbpp_assertions_are_compared_outside_where_the_value_is_written_down() -> None:
    item = {
        "test_list": ["assert f(2) == (1, {2})", "assert f(2)", "assert f(1) == f(2)"],
        "test_setup_code": "",
    }
    first, second, third = read_program_tests(item)
    assert (first.kind, first.code, first.expected) == ("expression", "f(2)", (1, {2}))
    assert (second.kind, third.kind) == ("assertions", "assertions")
    (whole,) = read_program_tests({**item, "test": "assert f(3)", "test_imports": ["import math"]})
    assert whole.code == "import math\nassert f(3)"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "has no tests"),
        ({"tests": []}, "has no tests"),
        ({"tests": "x"}, "not a list"),
        ({"tests": [{"input": "1"}]}, r"tests\[0\]"),
        ({"test_list": [1]}, "not a list of assertions"),
        ({"input_output": "{"}, "not JSON"),
        ({"input_output": {"inputs": ["1"], "outputs": []}}, "as many"),
        ({"input_output": {"inputs": [], "outputs": []}}, "no test in the field"),
        ({"public_test_cases": "[1]"}, "list of objects"),
        ({"public_test_cases": json.dumps([{**LCB_CASE, "testtype": "functional"}]), "metadata": "{}"}, "func_name"),
        ({"test": 3, "entry_point": "f"}, "not text"),
    ],
)  # fmt: skip
def test_a_row_whose_tests_cannot_be_used_says_why(item: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_program_tests(item)


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nor\n```py\nx = 2\n```\nDone", "x = 2\n"),
        ("<think>```\nx = 1\n```</think>x = 3", "x = 3"),
        ("```python\nx = 4\n", "x = 4\n"),
    ],
)
def test_the_program_is_the_last_code_block(response: str, program: str) -> None:
    assert find_program(response) == program


@pytest.mark.parametrize(
    ("output", "expected", "matches"),
    [
        ("1 2\n3\n", "1 2 \n3", True),
        ("1.0\n", "1", True),
        ("0.30000000000000004", "0.3", False),
        ("1 2\n3", "1 2 3", False),
        ("yes", "Yes", False),
        ("nan", "x", False),
        ("", "0", False),
        ("a b", "a c", False),
    ],
)
def test_outputs_are_compared_line_by_line(output: str, expected: str, matches: bool) -> None:
    assert outputs_match(output, expected) is matches


def test_a_file_is_refused_with_the_row_that_has_no_tests(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {
            "question_content": "Add",
            "starter_code": "class Solution:",
            "public_test_cases": json.dumps([LCB_CASE]),
            "metadata": "{}",
        },
        {"prompt": "Add"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    checks = row_checks(parse_graders(["code"]))
    with pytest.raises(ProblemsError) as refused:
        list(read_rows(path, "rl", {}, checks))
    (problem,) = refused.value.problems
    assert problem.path == "row 2"
    assert problem.message.startswith("has no tests;")
    assert problem.message.endswith("(grader 'code')")
    path.write_text(json.dumps(rows[0]) + "\n")
    (row,) = read_rows(path, "rl", {}, checks)
    assert "class Solution:" in row.messages[0].content
