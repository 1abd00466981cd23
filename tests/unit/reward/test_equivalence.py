import pytest

from services.common.trajectory import Outcome
from services.reward.equivalence import Comparison, compare
from services.reward.extraction import Extraction, Profile


def compare_box(reference_answer: str, answer: str, profile: Profile = Profile.RL) -> Comparison:
    return compare(reference_answer, Extraction(text=answer, method="boxed"), profile)


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
        ("[0,1)", r"0 \le x < 1", "string"),
        (r"(2,\infty)", "x > 2", "string"),
        (r"\text{1:03 PM}", "1:03 pm", "string"),
        ("I_{\\max}=4", "4", "string"),
        ("(7,5,5)", "7, 5, 5", "string"),
        ("The final answer is $28$.", "28", "string"),
        ("12", "12 marbles", "string"),
        ("12", "12 m", "integer"),
        (r"\emptyset", r"\text{no solution}", "string"),
        ("[2,5)", r"5 > x \ge 2", "string"),
        ("[-2,2]", r"\{x : -2 \le x \le 2\}", "string"),
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
        ("5 cm", "5 km", "unit_differs"),
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
        ("5050", r"\sum_{k=1}^{100} k", "unevaluated"),
        ("120", "5!", "unevaluated"),
        (r"\frac{1}{3}", r"\int_0^1 x^2 dx", "unevaluated"),
        ("3", r"\log_2 8", "unevaluated"),
        ("2x", r"\frac{d}{dx}x^2", "unevaluated"),
        ("5", ",", "answer_unparseable"),
        ("42", "42x", ""),
        ("42", "(x+y)^{30}", ""),
        ("(3,-2)", r"\{3,-2\}", ""),
        ("3:2", "0:0", ""),
        ("5 cm", "5 m", "unit_differs"),
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
        (r"\pm 2021", "2021"), ("A", "(A)(B)"), ("5!", "120"),
    ],
)  # fmt: skip
def test_sympy_decides_what_text_cannot(reference_answer: str, answer: str) -> None:
    comparison = compare_box(reference_answer, answer)
    assert (comparison.outcome, comparison.path) == (None, "sympy")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        (r"\pm 5", "5,- 5"),
        (r"\mp 5", r"\mp 5"),
        (r"1 \pm 2 \mp 3", "1 + 2 - 3,1 - 2 + 3"),
        (r"\pm 1,\pm 2", "1,- 1,2,- 2"),
        (r"\pm 1,7", "1,- 1,7"),
        # Two signs that may vary independently are four values; the comparator decides.
        (r"\pm 1 \pm 2", r"\pm 1 \pm 2"),
        (r"\pm 1 \pm 2 \pm 3", r"\pm 1 \pm 2 \pm 3"),
    ],
)
def test_a_single_plus_minus_is_expanded_and_several_are_not(text: str, expanded: str) -> None:
    assert compare_box(text, "x").reference == expanded
    assert compare_box("1,2,3,4", text).answer == expanded


def test_an_operator_is_accepted_if_the_reference_has_it_or_a_value_follows() -> None:
    assert compare_box(r"\binom{n}{2}", r"\binom{n}{n-2}").outcome is None
    assert compare_box("5050", r"\sum_{k=1}^{100} k = 5050").outcome is None
    assert compare_box("120", "5!", Profile.EVAL).outcome is None


@pytest.mark.parametrize("reference_answer", ["", "  ", "$$", "9" * 450, "x" * 2000, "9^{9^{9^9}}"])
def test_an_invalid_reference_answer_makes_responses_unverifiable(reference_answer: str) -> None:
    comparison = compare_box(reference_answer, "5")
    assert (comparison.outcome, comparison.reason) == (
        Outcome.UNVERIFIABLE,
        "reference_answer_invalid",
    )


def test_adjacent_boxes_are_a_list_only_for_reference_answers_that_are_lists() -> None:
    extraction = Extraction(text="5", method="boxed", listed="3,5")
    assert compare("5,3", extraction, Profile.RL).outcome is Outcome.CORRECT
    assert compare("5", extraction, Profile.RL).outcome is Outcome.CORRECT
    assert compare("3", extraction, Profile.RL).outcome is Outcome.INCORRECT


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
