import pytest

from services.common.errors import PlatformError
from services.common.trajectory import Outcome
from services.reward.extraction import Profile, extract
from services.reward.graders import GRADERS, JudgedResponse, resolve

SCORED = [outcome for outcome in Outcome if outcome.is_scored]


def score(name: str, response: str, outcome: Outcome) -> float:
    return GRADERS[name](JudgedResponse(response, extract(response, Profile.EVAL), outcome))


@pytest.mark.parametrize("outcome", SCORED)
def test_accuracy_is_one_for_correct_only(outcome: Outcome) -> None:
    assert score("accuracy", r"\boxed{5}", outcome) == float(outcome is Outcome.CORRECT)


@pytest.mark.parametrize("outcome", SCORED)
@pytest.mark.parametrize("name", ["boxed", "format"])
def test_form_counts_only_when_the_answer_was_judged(name: str, outcome: Outcome) -> None:
    assert score(name, r"\boxed{5}", outcome) == float(outcome in (Outcome.CORRECT, Outcome.INCORRECT))


def test_an_answer_found_by_a_fallback_was_not_boxed() -> None:
    assert score("boxed", "The answer is 5", Outcome.CORRECT) == 0.0


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
def test_format_wants_one_thought_at_most_and_one_box_after_it(response: str, expected: float) -> None:
    assert score("format", response, Outcome.CORRECT) == expected


@pytest.mark.parametrize("names", [["accuracy", "speed"], ["accuracy", "accuracy"], [""]])
def test_unknown_and_repeated_graders_are_refused(names: list[str]) -> None:
    with pytest.raises(PlatformError, match="must be one of") as caught:
        resolve(names)
    assert caught.value.code == "invalid_request"


def test_graders_keep_the_order_they_were_asked_in() -> None:
    assert list(resolve(["format", "accuracy"])) == ["format", "accuracy"]
