import pytest

from services.reward.letter_case import adopt_case, read_problem


@pytest.mark.parametrize(
    ("answer", "reference", "problem", "adopted"),
    [
        ("2R", "2r", "Let $r$ be the radius.", "2r"),
        ("2R", "2r", "Let $r$ be the radius and $R$ that of the sphere.", "2R"),
        ("2R", "2r", "", "2R"),
        ("2R", "2r", "A circle.", "2R"),
        ("R-r", "r", "Let $r$ be the radius.", "R-r"),
        ("R", "R-r", "Let $r$ be the radius.", "R"),
        (r"\sin X+\text{X}", r"\sin x", "Let $x=1$.", r"\sin x+\text{X}"),
        (r"\Lambda", r"\lambda", r"For \(\lambda > 0\)", r"\lambda"),
        (r"I\Pi", r"i\pi", r"For $i\pi$", r"I\Pi"),
        ("Theorem", "theorem", "Let $t$, $h$ and $m$ be.", "Theorem"),
    ],
)
def test_an_answer_adopts_the_only_case_that_the_problem_uses(
    answer: str, reference: str, problem: str, adopted: str
) -> None:
    assert adopt_case(answer, reference, problem) == adopted


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, ""),
        ({"messages": None, "prompt": 7}, ""),
        ({"prompt": "Find r."}, "Find r."),
        (
            {
                "messages": [
                    {"role": "system", "content": "Use R."},
                    {"role": "user", "content": "Find r."},
                    {"role": "user", "content": None},
                    "odd",
                ],
                "prompt": "unused",
            },
            "Find r.",
        ),
    ],
)
def test_the_problem_is_what_the_user_said(row: dict[str, object], problem: str) -> None:
    assert read_problem(row) == problem
