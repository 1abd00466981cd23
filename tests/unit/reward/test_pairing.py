r"""Answer and reference answer brought into comparable forms; what is compared then is another test's."""

import pytest

from services.common.answers.answer_types import AnswerType
from services.common.answers.normalisation import Normalised
from services.reward.extraction import Profile
from services.reward.pairing import Pair, align, squeeze


def aligned(
    reference_answer: str, answer: str, kind: AnswerType = AnswerType.EXPRESSION
) -> tuple[str, str]:
    pair = align(Pair(Normalised(reference_answer), Normalised(answer), Profile.RL, kind))
    return pair.reference.text, pair.answer.text


@pytest.mark.parametrize(
    ("reference_answer", "answer", "expected"),
    [
        ("5", "x = 5", ("5", "5")),
        ("f(x) = 2x", "2x", ("2x", "2x")),
        ("5", "5 = x", ("5", "5 ")),
        ("[0,1]", r"x \in [0,1]", ("[0,1]", "[0,1]")),
        # The same name, apart from blanks.
        ("x=5", "x = 6", ("5", "6")),
    ],
)
def test_a_name_before_the_only_equals_sign_is_stripped(
    reference_answer: str, answer: str, expected: tuple[str, str]
) -> None:
    assert aligned(reference_answer, answer) == expected


@pytest.mark.parametrize(
    ("reference_answer", "answer"),
    [("x = 5", "y = 5"), ("a+b=c", "x=5"), ("5", "2x+1=5"), ("x=5", "a+b=c")],
    ids=["other name", "equation as reference", "equation as answer", "label against equation"],
)
def test_an_equation_and_another_name_stay(reference_answer: str, answer: str) -> None:
    assert aligned(reference_answer, answer) == (reference_answer, answer)


@pytest.mark.parametrize("answer", ["1,2", "A(1,2)", "P' (1,2)", "(1,2)"])
def test_a_point_may_lack_its_brackets_or_have_a_name(answer: str) -> None:
    assert aligned("(1,2)", answer, AnswerType.TUPLE) == ("(1,2)", "(1,2)")


def test_a_bare_list_is_a_point_only_where_the_reference_answer_is_one() -> None:
    assert aligned("(1,2)", "1,2", AnswerType.LIST) == ("(1,2)", "1,2")


@pytest.mark.parametrize("kind", [AnswerType.INTERVAL, AnswerType.TUPLE])
def test_a_chain_of_inequalities_is_an_interval(kind: AnswerType) -> None:
    assert aligned("[0,1)", r"0 \le x < 1", kind) == ("[0,1)", "[0,1)")


def test_an_inequality_stays_where_no_interval_is_asked_for() -> None:
    assert aligned("(0,1)", "0 < x < 1", AnswerType.INEQUALITY) == ("(0,1)", "0 < x < 1")


def test_combinations_are_binomials_unless_they_name_a_point() -> None:
    assert aligned("C(5,2)", "C (n, k)") == (r"\binom{5}{2}", r"\binom{n}{ k}")
    assert aligned("C(5,2)", "(5,2)", AnswerType.TUPLE) == ("C(5,2)", "(5,2)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\pm 2", "2,- 2"),
        (r"\frac{3\pm\sqrt{5}}{2}", r"\frac{3+\sqrt{5}}{2},\frac{3-\sqrt{5}}{2}"),
        # Elements of a list or a set, each with its own sign.
        (r"1\pm2, 7", "1+2,1-2,7"),
        (r"\{1\pm2, 7\}", "1+2,1-2,7"),
        (r"3\pm2, 5\pm1", "3+2,3-2,5+1,5-1"),
        # Two points, not one with three coordinates.
        (r"(1\pm 2,3)", "(1+ 2,3),(1- 2,3)"),
        # The opposite sign changes with it.
        (r"3\pm2\mp1", "3+2-1,3-2+1"),
        # Two signs may vary on their own: four values or two, so nothing is said.
        (r"\pm1\pm2", r"\pm1\pm2"),
        (r"\mp 2", r"\mp 2"),
    ],
)
def test_one_sign_of_both_kinds_stands_for_two_values(text: str, expected: str) -> None:
    assert aligned(text, "x") == (expected, "x")
    assert aligned("x", text) == ("x", expected)


@pytest.mark.parametrize(
    ("reference_answer", "expected"),
    [("0.611", "0.611"), ("11/18", r"\frac{11}{18}"), ("3", r"\frac{11}{18}")],
)
def test_of_an_exact_value_and_its_decimal_the_reference_answer_decides(
    reference_answer: str, expected: str
) -> None:
    assert aligned(reference_answer, r"\frac{11}{18} \approx 0.611") == (reference_answer, expected)


@pytest.mark.parametrize(
    ("reference_answer", "answer", "expected"),
    [
        # The last approximation counts.
        ("0.61", r"11/18 \approx 0.6 \approx 0.61", "0.61"),
        # A name is not a value.
        ("3", r"x \approx 3", "3"),
        # Nothing is approximated; the reference answer is not a number.
        ("3", r"\approx 3", r"\approx 3"),
        ("y", r"\frac{11}{18} \approx 0.611", r"\frac{11}{18} \approx 0.611"),
    ],
)
def test_an_approximation_is_read_only_where_both_sides_are_numbers(
    reference_answer: str, answer: str, expected: str
) -> None:
    assert aligned(reference_answer, answer) == (reference_answer, expected)


def test_common_divisors_are_named_by_their_arguments_in_any_order() -> None:
    assert aligned(r"\gcd(m,n)+\gcd(a,b)", r"\gcd(b, a)+\gcd(n, m)") == (
        "d_{11}+d_{22}",
        "d_{22}+d_{11}",
    )
    assert aligned(r"\gcd(m,n)", r"\lcm(m,n)") == ("d_{11}", "d_{22}")
    assert aligned("2", r"\gcd(4,6)") == ("2", r"\gcd(4,6)")


def test_blanks_beside_signs_have_no_meaning() -> None:
    assert squeeze("a + b , c d") == "a+b,c d"
