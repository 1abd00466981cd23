import pytest

from services.common.trajectory import Outcome
from services.reward.equivalence import Comparison, compare, squeeze
from services.reward.extraction import Extraction


def compare_box(reference_answer: str, answer: str) -> Comparison:
    return compare(reference_answer, Extraction(text=answer, method="boxed"))


@pytest.mark.parametrize(
    ("reference_answer", "answer", "path"),
    [
        ("72", "72", "string"),
        ("72", "072", "integer"),
        ("1080", "1,080", "integer"),
        (r"\boxed{42}", "42", "string"),
        ("0.5", r"\frac{1}{2}", "rational"),
        ("27.0", "27", "integer"),
        (r"28\%", "28", "string"),
        ("0.6", r"60\%", "rational"),
        (r"\frac{ 1 }{2}", r"\dfrac12", "string"),
        ("Evelyn", r"\text{evelyn}", "string"),
        ("B", r"\textbf{(B)}\ 12", "string"),
        ("B", "B. 12", "string"),
        ("52_8", "52_{8}", "string"),
        ("3:04", "03:04", "string"),
        ("(1,2)", r"\left(1.0,\,2\right)", "rational"),
        ("1,2,2", r"\{2,1,2\}", "rational"),
        ("1000.99", "1000,99", "rational"),
        ("15 cm", "15", "string"),
        ("58,500", "500,58", "rational"),
        (r"\text{1:03 PM}", "1:03 pm", "string"),
        ("The final answer is $28$.", "28", "string"),
        ("12", "12 marbles", "string"),
        ("12", "12 m", "integer"),
        ("15 cm", "0.15 m", "string"),
        ("2 hours", "120 minutes", "string"),
        ("5 m", "500 cm", "string"),
        ("A1_{16}", "a1_{16}", "string"),
        ("42", "4\u200b2", "string"),
        ("42", "\u200f42", "string"),
        ("2^{100000}-1", "2^{100000}-1", "string"),
        (r"\emptyset", r"\text{no solution}", "string"),
        ("3:2", "6:4", "string"),
        ("42", r"\textcolor{red}{\underline{42}}", "string"),
        (r"\binom{10}{3}", r"{10 \choose 3}", "string"),
    ],
)
def test_equal_answers_are_accepted_without_sympy(
    reference_answer: str, answer: str, path: str
) -> None:
    comparison = compare_box(reference_answer, answer)
    assert (comparison.outcome, comparison.path) == (Outcome.CORRECT, path)


@pytest.mark.parametrize(
    ("reference_answer", "answer", "reason"),
    [
        ("72", "73", ""),
        ("1/2", "0.5000001", ""),
        ("5 cm", "5 km", ""),
        ("listen", "silent", ""),
        ("odd", r"\text{oddd}", ""),
        ("B", r"\textbf{(C)}\ 12", ""),
        ("52_8", "52_5", ""),
        ("1010_2", "1010", ""),
        ("12:00", "1:00", ""),
        ("(1,2)", "(2,1)", ""),
        ("1,1,2", "1,2", ""),
        ("16,3,1,1", "16,3,1,3", ""),
        (r"\sqrt{67}", r"\ldots", ""),
        (r"1,2,\ldots,n", r"1,3,\ldots,2n-1", ""),
        ("5", ",", "answer_unparseable"),
        ("3:2", "0:0", ""),
        ("5 cm", "5 m", ""),
        ("5 cm", "5 kg", "unit_differs"),
        ("5 m", "5 kg", "unit_differs"),
        ("12", "12_0", ""),
        ("1:03 PM", "1:03 AM", ""),
    ],
)
def test_wrong_answers_are_rejected_without_sympy(
    reference_answer: str, answer: str, reason: str
) -> None:
    comparison = compare_box(reference_answer, answer)
    assert (comparison.outcome, comparison.reason) == (Outcome.INCORRECT, reason)


@pytest.mark.parametrize(
    ("reference_answer", "answer"),
    [
        (r"3\sqrt{13}", r"\sqrt{117}"), ("x+1", "1+x"), ("A", "A+0"), ("3", "1,2,3"), ("[0,1)", r"x^2 < x"),
        ("42", "42x"), ("A", "(A)(B)"), ("120", "5!"), ("(2,\\infty)", "x>2"), ("5", "x=5"), ("aa", "a a"),
        ("7", r"7 \text{ is wrong, it is 8}"), ("7", r"7 \text{ though possibly 8, 9, 10}"),
    ],
)  # fmt: skip
def test_a_worker_decides_what_text_cannot(reference_answer: str, answer: str) -> None:
    assert compare_box(reference_answer, answer).outcome is None


def test_blanks_beside_signs_have_no_meaning() -> None:
    assert squeeze("a + b , c d") == "a+b,c d"


@pytest.mark.parametrize("reference_answer", ["", "  ", "$$", "x" * 2000])
def test_an_invalid_reference_answer_makes_responses_unverifiable(reference_answer: str) -> None:
    comparison = compare_box(reference_answer, "5")
    assert (comparison.outcome, comparison.reason) == (
        Outcome.UNVERIFIABLE,
        "reference_answer_invalid",
    )


def test_adjacent_boxes_are_a_list_only_for_reference_answers_that_are_lists() -> None:
    extraction = Extraction(text="5", method="boxed", listed="3,5")
    assert compare("5,3", extraction).outcome is Outcome.CORRECT
    assert compare("5", extraction).outcome is Outcome.CORRECT
    assert compare("3", extraction).outcome is Outcome.INCORRECT


def test_overlong_answers_are_too_complex() -> None:
    comparison = compare_box("5", "1+" * 1000 + "1")
    assert (comparison.outcome, comparison.reason) == (Outcome.TOO_COMPLEX, "too_long")


def test_hostile_answers_are_cheap_in_the_serving_process() -> None:
    hostile = (
        "a",
        "{",
        "(",
        "1,",
        "\\",
        "√",
        "1 ",
        "-",
        r"\langle",
        "e1",
        "and ",
        r"\text{",
        "1_",
        "1:",
        "=",
    )
    for piece in hostile:
        compare_box("x+5", (piece * 1500)[:1500])
