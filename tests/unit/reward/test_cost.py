import pytest

from services.common.answers.answer_types import infer_answer_type
from services.common.trajectory import Outcome
from services.reward.equivalence import compare
from services.reward.extraction import Extraction, Profile, extract
from services.reward.guard import MAX_CHARS
from services.reward.scores import GradedResponse
from services.reward.shaping import score_format
from tests.support.cost import cpu_seconds, grows_linearly
from tests.support.hostile_text import CLASSES, fill, hostile_texts

RESPONSE_CHARS = 40_000
MAX_COMPARE_S = 1.0
REFERENCES = ("1", "(1,2)", "x=2")
FRAMES = {
    "plain": "{}",
    "one box": r"\boxed{{1{}x}}",
    "open box": r"\boxed{{{}",
    "after a box": r"\boxed{{3}} the final answer is {}",
    "after a tag": "<think></think><answer>{}",
}


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("frame", FRAMES)
def test_extraction_is_linear_in_the_response(profile: Profile, frame: str) -> None:
    slow = [
        name
        for name, text in hostile_texts(RESPONSE_CHARS)
        if not grows_linearly(
            lambda response: extract(response, profile),
            FRAMES[frame].format(text),
            FRAMES[frame].format(text * 2),
        )
    ]
    assert slow == []


@pytest.mark.parametrize("name", CLASSES)
def test_extraction_of_many_boxes_is_linear(name: str) -> None:
    for one in (
        rf"\boxed{{{CLASSES[name]}}}",
        rf"\boxed{CLASSES[name]}",
        rf"\boxed{{{CLASSES[name]}",
    ):
        short = fill(one, RESPONSE_CHARS)

        assert grows_linearly(lambda text: extract(text, Profile.EVAL), short, short * 2)
        assert grows_linearly(score, short, short * 2)


def score(response: str) -> None:
    score_format(
        GradedResponse(
            response=response,
            extraction=Extraction(),
            outcome=Outcome.INCORRECT,
            reference_answer="1",
            num_tokens=1,
            num_steps=1,
            max_new_tokens=1,
        )
    )


@pytest.mark.parametrize("reference", REFERENCES)
def test_no_answer_that_is_compared_takes_long(reference: str) -> None:
    def grade(answer: str) -> None:
        compare(reference, Extraction(answer, "boxed", listed=answer), Profile.RL)

    slow = {}
    for name, text in hostile_texts(MAX_CHARS - 2):
        seconds = cpu_seconds(grade, f"1{text}x")
        if seconds > MAX_COMPARE_S:
            slow[name] = seconds
    assert slow == {}


def test_reference_answers_may_be_hostile_too() -> None:
    for name, text in hostile_texts(20_000):
        assert grows_linearly(infer_answer_type, text, text * 2), name


def test_a_response_beyond_the_limit_is_not_read() -> None:
    assert extract("x" * 1_000_000 + r"\boxed{1}", Profile.RL).failure == "too_long"
