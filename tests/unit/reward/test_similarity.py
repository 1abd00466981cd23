from typing import Any

import pytest

from services.common.grader_spec import parse_grader
from services.common.trajectory import Outcome
from services.reward.extraction import Extraction
from services.reward.graders import make_scorer
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Score


def score(metric: str, text: str, reference: str, **row: Any) -> Score:
    spec = parse_grader(
        {
            "name": "s",
            "type": "text_similarity",
            "evaluation_metric": metric,
            "input": "{{ sample.output_text }}",
            "reference": "{{ item.wanted }}",
        }
    )
    graded = GradedResponse(
        response=text,
        extraction=Extraction(),
        outcome=Outcome.SCORED,
        row=row or {"wanted": reference},
    )
    (value,) = make_scorer(spec)([graded], GradingLimits())
    return value


@pytest.mark.parametrize(
    ("metric", "text", "reference", "expected"),
    [
        # 4 of 5 letters remain: 1 − 2 edits / 10 letters.
        ("fuzzy_match", "house", "mouse", 0.8),
        # 3 of 4 words of either side are shared.
        ("rouge_1", "the cat sat down", "The cat lay down!", 0.75),
        # "the cat" of three pairs each.
        ("rouge_2", "the cat sat down", "the cat lay down", 1 / 3),
        # A repeated word counts as often as the reference has it: 2·1 / (3 + 1).
        ("rouge_1", "the the the", "the", 0.5),
        # "a b d" of 4 and 3 words: 2·3 / 7.
        ("rouge_l", "a b c d", "a b d", 6 / 7),
        ("rouge_3", "a b", "a b", 0.0),
        ("bleu", "the cat is on the mat", "the cat is on the mat", 1.0),
        # Precisions 4/5, 3/4, 2/3, 1/2; no brevity penalty: (0.2)^(1/4).
        ("bleu", "a b c d x", "a b c d y", 0.2**0.25),
        ("bleu", "", "a", 0.0),
        ("fuzzy_match", "", "", 1.0),
    ],
)
def test_similarity_by_hand(metric: str, text: str, reference: str, expected: float) -> None:
    assert score(metric, text, reference) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", "rouge_1", "rouge_5", "rouge_l"])
def test_similarity_is_one_for_equal_texts_and_zero_for_foreign_ones(metric: str) -> None:
    text = "one two three four five six"
    assert score(metric, text, text) == pytest.approx(1.0)
    assert score(metric, "@@@@", text) == pytest.approx(0.0, abs=0.05)


def test_an_absent_field_has_no_similarity() -> None:
    assert score("bleu", "a", "", other="x") == GraderFailure(
        "missing_field", "the row has no item.wanted"
    )
