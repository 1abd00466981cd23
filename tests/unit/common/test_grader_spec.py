from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import PlatformError
from services.common.formula import Formula
from services.common.grader_spec import VARIABLES, fill_in, grader_text, parse_grader

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
        PYTHON,
        CHECK,
        {"name": "m", "type": "multi", "graders": PARTS, "calculate_output": "a + 0.5 * b"},
    ],
)
def test_a_grader_survives_its_travel_but_for_its_weight(grader: Any) -> None:
    spec = parse_grader(grader)
    assert parse_grader(grader_text(spec)) == spec.model_copy(update={"weight": 1.0})


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
            {**CHECK, "input": "{{ item.unknown }}"},
            "item.unknown}} is not a variable; the variables are sample.output_text",
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


def test_templates_are_filled_in_once() -> None:
    values = dict(zip(VARIABLES, ("{{ item.reference_answer }}", "b", "c"), strict=True))
    assert (
        fill_in("{{sample.output_text}}-{{ item.reference_answer }}", values)
        == "{{ item.reference_answer }}-c"
    )
