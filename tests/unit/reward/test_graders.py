from typing import Any

import pytest

from services.common.errors import PlatformError
from services.common.grader_spec import SAMPLE_FIELDS, parse_grader
from services.common.trajectory import FinishReason, Outcome
from services.reward.extraction import Profile, extract
from services.reward.graders import make_graders, make_scorer
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Score

COMPARED = [o for o in Outcome if o.is_scored and o is not Outcome.SCORED]


def graded(
    response: str = r"\boxed{5}", outcome: Outcome = Outcome.CORRECT, **fields: Any
) -> GradedResponse:
    return GradedResponse(
        response=response,
        extraction=extract(response, Profile.EVAL),
        outcome=outcome,
        reference_answer="5",
        **fields,
    )


def score(
    grader: Any, response: str = r"\boxed{5}", outcome: Outcome = Outcome.CORRECT, **fields: Any
) -> Score:
    (value,) = make_scorer(parse_grader(grader))(
        [graded(response, outcome, **fields)], GradingLimits()
    )
    return value


@pytest.mark.parametrize("outcome", COMPARED)
def test_accuracy_is_one_for_correct_only(outcome: Outcome) -> None:
    assert score("accuracy", r"\boxed{5}", outcome) == float(outcome is Outcome.CORRECT)


@pytest.mark.parametrize("outcome", COMPARED)
@pytest.mark.parametrize("name", ["boxed", "format"])
def test_form_counts_only_when_the_answer_was_graded(name: str, outcome: Outcome) -> None:
    assert score(name, r"\boxed{5}", outcome) == float(
        outcome in (Outcome.CORRECT, Outcome.INCORRECT)
    )


@pytest.mark.parametrize("grader", ["accuracy", "cosine", "speed"])
def test_without_a_comparison_correctness_has_no_score(grader: str) -> None:
    lengths = {"num_tokens": 4, "num_steps": 2, "max_new_tokens": 8}
    value = score(grader, outcome=Outcome.SCORED, **lengths)
    assert value == GraderFailure("no_reference_answer", "the row has no reference answer")


@pytest.mark.parametrize("grader", ["boxed", "format"])
def test_form_counts_without_a_comparison(grader: str) -> None:
    assert score(grader, outcome=Outcome.SCORED) == 1.0
    assert score(grader, "no box", outcome=Outcome.SCORED) == 0.0


def test_graders_see_the_response_and_the_row() -> None:
    one = graded(
        '{"a": 5}',
        Outcome.SCORED,
        row={"tests": [1], "messages": []},
        finish_reason=FinishReason.LENGTH,
        unmask_step=[1, 1, 2],
        num_tokens=3,
        num_steps=2,
        max_new_tokens=3,
    )
    sample = one.to_sample()
    assert tuple(sample) == SAMPLE_FIELDS
    assert sample == {
        "output_text": '{"a": 5}', "output_json": {"a": 5}, "program": one.response,
        "answer": one.extraction.text, "outcome": "scored", "finish_reason": "length",
        "num_tokens": 3, "num_steps": 2, "max_new_tokens": 3, "unmask_step": [1, 1, 2],
    }  # fmt: skip
    assert one.to_item() == {"tests": [1], "messages": [], "reference_answer": "5"}
    assert graded("[" * 10_000).to_sample()["output_json"] is None


def test_a_template_reads_fields_of_the_row() -> None:
    check = {
        "type": "string_check",
        "name": "s",
        "operation": "like",
        "input": "{{sample.output_text}}",
    }
    grader = {**check, "reference": "{{ item.metadata.word }}"}
    assert score(grader, "a needle", row={"metadata": {"word": "needle"}}) == 1.0
    assert score(grader, "a needle", row={"metadata": {}}) == GraderFailure(
        "missing_field", "the row has no item.metadata.word"
    )


def test_an_answer_found_by_a_fallback_was_not_boxed() -> None:
    assert score("boxed", "The answer is 5") == 0.0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"\boxed{5}", 1.0),
        (r"<think>a \boxed{3}</think> so \boxed{5}", 1.0),
        (r"a</think>\boxed{5}", 1.0),
        (r"\boxed{3} or \boxed{5}", 0.0),
        (r"\boxed{}", 0.0),
        ("5", 0.0),
        (r"so <think>a</think>\boxed{5}", 0.0),
        (r"<think>a</think><think>b</think>\boxed{5}", 0.0),
        (r"a</think>b</think>\boxed{5}", 0.0),
        (r"<think>a \boxed{5}", 0.0),
        (r"<think>a \boxed{5}</think>", 0.0),
    ],
)
def test_format_wants_one_thought_at_most_and_one_box_after_it(
    response: str, expected: float
) -> None:
    assert score("format", response) == expected


@pytest.mark.parametrize(
    ("outcome", "num_tokens", "expected"),
    [
        (Outcome.CORRECT, 50, 0.75),  # half way: (1 + 0.5) / 2
        (Outcome.INCORRECT, 50, -0.25),  # (-0.5 + 0) / 2
        (Outcome.CORRECT, 100, -0.5),
        (Outcome.TRUNCATED, 50, -0.5),
    ],
)
def test_cosine_rewards_short_correct_and_long_wrong_answers(
    outcome: Outcome, num_tokens: int, expected: float
) -> None:
    assert score(
        "cosine", outcome=outcome, num_tokens=num_tokens, max_new_tokens=100
    ) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(50, 0.0), (75, -0.5), (100, -1.0), (120, -1.0)]
)
def test_soft_overlong_falls_over_the_last_half_of_the_budget(
    num_tokens: int, expected: float
) -> None:
    assert score("soft_overlong", num_tokens=num_tokens, max_new_tokens=100) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("a b c d", 0.0), ("a a a a a", -2 / 3), ("a b", 0.0)]
)
def test_repetition_counts_distinct_word_triples(text: str, expected: float) -> None:
    assert score("repetition", text) == pytest.approx(expected)


def test_speed_is_paid_for_correct_answers_only() -> None:
    assert score("speed", num_tokens=20, num_steps=10) == 0.5
    assert score("speed", num_tokens=90, num_steps=10) == 1.0
    assert score("speed", outcome=Outcome.INCORRECT, num_tokens=20, num_steps=10) == 0.0


@pytest.mark.parametrize("name", ["cosine", "soft_overlong", "speed"])
def test_a_grader_without_the_lengths_it_needs_fails_instead_of_guessing(name: str) -> None:
    assert isinstance(score(name), GraderFailure)


@pytest.mark.parametrize(
    ("operation", "reference", "expected"),
    [
        ("eq", "5", 1.0),
        ("eq", "6", 0.0),
        ("ne", "6", 1.0),
        ("like", "OXED", 0.0),
        ("ilike", "OXED", 1.0),
    ],
)
def test_string_check_compares_filled_in_templates(
    operation: str, reference: str, expected: float
) -> None:
    template = "{{ sample.answer }}" if operation in ("eq", "ne") else "{{sample.output_text}}"
    grader = {
        "type": "string_check",
        "name": "s",
        "operation": operation,
        "input": template,
        "reference": reference,
    }
    assert score(grader) == expected


def test_multi_combines_its_parts_by_a_formula() -> None:
    parts = {"a": {"type": "accuracy"}, "r": {"type": "repetition", "ngram": 1}}
    multi = {
        "type": "multi",
        "name": "m",
        "graders": parts,
        "calculate_output": "0.9 * a + max(r, -0.25)",
    }
    assert score(multi, "a a") == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("parts", "formula", "reason"),
    [
        ({"a": {"type": "speed"}}, "a", "steps_unknown"),
        ({"a": {"type": "accuracy"}}, "1 / (a - 1)", "formula"),
    ],
)
def test_a_part_or_formula_without_a_value_fails_the_whole(
    parts: Any, formula: str, reason: str
) -> None:
    failed = score({"type": "multi", "name": "m", "graders": parts, "calculate_output": formula})
    assert isinstance(failed, GraderFailure)
    assert failed.reason == reason


def test_unknown_graders_are_refused_with_the_known_ones() -> None:
    with pytest.raises(PlatformError, match="'accuracy', 'boxed', 'format', 'cosine'") as caught:
        make_graders(["accuracy", "sped"])
    assert caught.value.code == "invalid_request"


def test_two_graders_under_one_name_are_refused() -> None:
    with pytest.raises(PlatformError, match="distinct names"):
        make_graders(["accuracy", "accuracy"])


def test_graders_keep_the_order_they_were_asked_in() -> None:
    assert [grader.name for grader in make_graders(["format", "accuracy"])] == [
        "format",
        "accuracy",
    ]
