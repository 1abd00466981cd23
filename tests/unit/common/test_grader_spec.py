from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import PlatformError
from services.common.formula import Formula
from services.common.grader_spec import (
    grader_text,
    parse_grader,
    parse_graders,
    required_fields,
    uses_correctness,
)
from services.common.templates import MissingFieldError, fill_in

PYTHON = {"name": "p", "type": "python", "source": "def grade(sample, item): return 1"}
CHECK = {
    "name": "s",
    "type": "string_check",
    "operation": "eq",
    "input": "{{sample.answer}}",
    "reference": "x",
}
PARTS = {"a": {"type": "accuracy"}, "b": {"type": "boxed"}}


@pytest.mark.parametrize(
    "grader",
    [
        "accuracy",
        {"name": "format", "weight": 0.1},
        {"name": "short", "type": "cosine", "exceeded": -1},
        {"name": "speed", "only_if": "s"},
        {"name": "speed", "only_if": "s", "target": 8, "weight": 0.5},
        PYTHON,
        CHECK,
        {"name": "m", "type": "multi", "graders": PARTS, "calculate_output": "a + 0.5 * b"},
    ],
)
def test_a_grader_survives_its_travel_but_for_its_weight(grader: Any) -> None:
    spec = parse_grader(grader)
    arrived = parse_grader(grader_text(spec))
    assert arrived == spec.model_copy(update={"weight": 1.0})
    assert arrived.uses_correctness == spec.uses_correctness


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ("sped", "'accuracy', 'boxed', 'format', 'cosine', 'soft_overlong', 'repetition', 'speed'"),
        ({"type": "accuracy"}, "name: Field required"),
        ({"name": "a b", "type": "accuracy"}, "should match pattern"),
        ({"name": "accuracy", "wieght": 2}, "wieght: Extra inputs"),
        ({"name": "accuracy", "weight": float("nan")}, "finite"),
        ({**PYTHON, "source": "def grad(s, i): return 1"}, "must define grade"),
        ({**PYTHON, "source": "def grade(s): return 1"}, "must define grade"),
        ({**PYTHON, "source": "def grade("}, "source is not valid Python"),
        ({**PYTHON, "source": "(" * 5000}, "source is not valid Python"),
        (
            {**CHECK, "input": "{{ sample.unknown }}"},
            "sample.unknown}} is not a variable; the variables are item.<field of the row> and sample.",
        ),
        ({**CHECK, "input": "{{ item }}"}, "{{item}} is not a variable"),
        (
            {**CHECK, "input": "{{ row.answer }}"},
            "{{row.answer}} is not a variable",
        ),
        (
            {"name": "m", "type": "multi", "graders": PARTS, "calculate_output": "a + c"},
            r"names \['c'\]",
        ),
        (
            {"name": "m", "type": "multi", "graders": {"max": "accuracy"}, "calculate_output": "1"},
            "names of functions",
        ),
        ({"name": "m", "type": "multi", "graders": {}, "calculate_output": "1"}, "at least 1"),
        ('{"name": ', "not valid JSON"),
    ],
)
def test_a_faulty_grader_is_refused_with_the_rule(grader: Any, message: str) -> None:
    with pytest.raises(PlatformError, match=message) as caught:
        parse_grader(grader)
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize(
    "formula",
    [
        "a ** 9",
        "a.real",
        "a if a else b",
        "[a]",
        "'x'",
        "True",
        "__import__('os')",
        "lambda: 1",
        "a; b",
        "min()",
        "(" * 500,
        "",
    ],
)
def test_a_formula_is_arithmetic_only(formula: str) -> None:
    with pytest.raises(ValueError, match="formula"):
        Formula(formula, {"a", "b"})


def test_a_formula_has_the_value_that_arithmetic_gives() -> None:
    assert (
        Formula("max(a, -b) * 2 - floor(2.5) / 4", {"a", "b"}).evaluate({"a": 0.25, "b": 1.0})
        == 0.0
    )


@pytest.mark.parametrize("formula", ["1 / a", "log(a)", "exp(1000 + a)", "1e308 * 10 + a"])
def test_a_formula_without_a_finite_value_raises(formula: str) -> None:
    with pytest.raises((ArithmeticError, ValueError)):
        Formula(formula, {"a"}).evaluate({"a": 0.0})


@given(st.text())
def test_any_text_is_a_formula_or_refused(text: str) -> None:
    try:
        Formula(text, {"a"})
    except ValueError:
        return


def test_templates_are_filled_in_once_and_follow_paths() -> None:
    values = {
        "sample": {"output_text": "{{ item.key }}", "output_json": {"a": [1, "x"]}},
        "item": {"key": "c", "tests": [{"in": 3}], "none": None},
    }
    assert fill_in("{{sample.output_text}}-{{ item.key }}", values) == "{{ item.key }}-c"
    assert fill_in("{{sample.output_json.a.1}} {{ item.tests.0.in }}", values) == "x 3"
    assert fill_in("{{item.tests}}{{item.none}}", values) == '[{"in": 3}]null'
    for path in ("item.absent", "item.tests.1", "item.key.deeper", "item.tests.first"):
        with pytest.raises(MissingFieldError, match=path):
            fill_in(f"{{{{{path}}}}}", values)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("return float(item['a'] == sample['output_text'])", {"a"}),
        ("x = item['a']['b']\n    return len(item['c'])", {"a.b", "a", "c"}),
        ("return item.get('a', 0)", set()),
        ("if item['kind'] == 'x':\n        return item['x']\n    return item['y']", {"kind"}),
        ("return item['a'] if 'a' in item else 0", set()),
        ("return item['a'] and item['b']", {"a"}),
        ("try:\n        x = item['a']\n    except KeyError:\n        x = 0\n    return x", set()),
        ("return sum(t == item['b'] for t in item['tests'])", {"tests"}),
        ("for t in item['tests']:\n        t(item['x'])\n    return item['z']", {"tests", "z"}),
        ("return (lambda: item['a'])()", set()),
    ],
)
def test_a_python_grader_needs_the_fields_that_every_call_reads(
    body: str, fields: set[str]
) -> None:
    source = f"def grade(sample, item):\n    {body}"
    assert parse_grader({**PYTHON, "source": source}).item_fields == fields


def test_graders_say_what_they_need_of_a_row() -> None:
    check = {**CHECK, "input": "{{item.expected}}", "reference": "{{sample.outcome}}"}
    plain = parse_graders([PYTHON, CHECK, "boxed", "format", "repetition", "soft_overlong"])
    assert (required_fields(plain), uses_correctness(plain)) == ({}, False)
    parts = {"a": {"type": "accuracy"}, "s": {**check, "name": "s"}}
    multi = {"name": "m", "type": "multi", "graders": parts, "calculate_output": "a * s"}
    assert required_fields(parse_graders([multi])) == {"expected": "m", "reference_answer": "m"}
    reads = {**PYTHON, "source": "def grade(sample, item): return sample['outcome'] == 'correct'"}
    for grader in ("accuracy", "cosine", "speed", multi, check, reads):
        assert uses_correctness(parse_graders([grader])), grader
