import pytest

from services.reward.extraction import Extraction, Profile, extract

FAILURES = [
    ("no answer at all", "nothing_found"),
    (r"\boxed{3} then \boxed{\frac{1}{2", "unclosed_box"),
    (r"\boxed{ }", "empty_box"),
    (r"<think>\boxed{3}", "unclosed_think"),
    (r"\boxed{3}</think> so <think>\boxed{4}", "unclosed_think"),
    (r"<think>\boxed{3}</think> I forgot.", "nothing_found"),
]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"27+45=72 \boxed{72}", "72"),
        (r"\boxed{3}. Wait, no. Hence \boxed{5}.", "5"),
        (r"<think>\boxed{3}</think>Finally \boxed{5}.", "5"),
        (r"maybe \boxed{3}</think>Finally \boxed{5}.", "5"),
        (r"<think>a</think>b<think>c</think>\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\fbox{8}", "8"),
        ("\\boxed{\n9\n}", "9"),
    ],
)
@pytest.mark.parametrize("profile", Profile)
def test_the_last_box_after_the_last_thought_is_the_answer(
    response: str, answer: str, profile: Profile
) -> None:
    found = extract(response, profile)
    assert (found.text, found.method, found.failure) == (answer, "boxed", "")


@pytest.mark.parametrize(("response", "failure"), FAILURES)
def test_what_is_missing_is_said_and_no_earlier_box_is_taken(response: str, failure: str) -> None:
    assert extract(response, Profile.RL) == Extraction(failure=failure)


@pytest.mark.parametrize(
    ("response", "answer", "method"),
    [
        ("so <answer> 5 </answer>", "5", "answer_tag"),
        ("3+4\n#### 7", "7", "hashes"),
        ("Answer: 41 was wrong.\nAnswer: 42", "42", "phrase"),
        (
            "The final answer is $\\frac{1}{2}$. I hope it is correct.",
            r"\frac{1}{2}",
            "final_answer",
        ),
        ("The answer is 10 apples. Nice.", "10 apples", "phrase"),
        ("She has 3 cats and 4 dogs, 1,007 in all.", "1,007", "last_number"),
        ("It fell by -2.5 degrees", "-2.5", "last_number"),
    ],
)
def test_fallbacks_belong_to_evaluation_only(response: str, answer: str, method: str) -> None:
    found = extract(response, Profile.EVAL)
    assert (found.text, found.method) == (answer, method)
    assert extract(response, Profile.RL).failure == "nothing_found"


@pytest.mark.parametrize(
    ("response", "answer", "method"),
    [
        (r"\boxed{12}. The final answer is **13**.", "13", "final_answer"),
        (r"\boxed{12} The final answer is **13 apples**.", "13 apples", "final_answer"),
        ("\\boxed{12}\nThe final answer is:\n13", "13", "final_answer"),
        ("\\boxed{12}\n### Final Answer\n\n$$\n13\n$$", "13", "final_answer"),
        # Sentences about the answer, and other statements, leave the box.
        (r"\boxed{12} I checked that the final answer is correct.", "12", "boxed"),
        (r"\boxed{12}. So the final answer is in the box above.", "12", "boxed"),
        (r"\boxed{12} The final answer is obtained by adding 5 and 7.", "12", "boxed"),
        (r"\boxed{12}. The answer is 13.", "12", "boxed"),
        ("The answer is **12**.", "12", "phrase"),
        ("the answer is *12*.", "12", "phrase"),
        ("**Answer:** `12`", "12", "phrase"),
        ("The answer is 12, since 5 is prime.", "12", "phrase"),
        ("The answer is 12 because 5 is prime.", "12", "phrase"),
        ("The answer is Paris.", "Paris", "phrase"),
        ("So the probability is 3/4.", "3/4", "last_number"),
        ("Thus 5-3", "5-3", "last_number"),
        ("We add: 10 + 5 = 15", "15", "last_number"),
        ("It is 15, not 16.", "15", "last_number"),
        ("We get $x=2$, that is 50%.", "50%", "last_number"),
    ],
)
def test_evaluation_reads_the_whole_answer_where_it_is_stated(
    response: str, answer: str, method: str
) -> None:
    found = extract(response, Profile.EVAL)
    assert (found.text, found.method) == (answer, method)


def test_an_unclosed_box_has_no_fallback_in_evaluation_either() -> None:
    assert extract(r"The answer is 5. \boxed{5", Profile.EVAL).failure == "unclosed_box"


@pytest.mark.parametrize(
    ("response", "text", "listed"),
    [
        (r"\boxed{3}, \boxed{5}", "5", "3,5"),
        (r"\boxed{3} or \boxed{5}", "3,5", "3,5"),
        (r"\boxed{3} and \boxed{3}", "3", "3,3"),
        (r"\boxed{1}, \boxed{2}, \quad \text{or} \quad \boxed{3}", "1,2,3", "1,2,3"),
        (r"\boxed{3}. Wait, no. Hence \boxed{5}.", "5", ""),
        (r"\boxed{3}" + " " * 100 + r"\boxed{5}", "5", ""),
    ],
)
def test_boxes_side_by_side_are_a_list_and_none_of_connected_ones_is_the_answer(
    response: str, text: str, listed: str
) -> None:
    found = extract(response, Profile.RL)
    assert (found.text, found.listed) == (text, listed)


def test_no_more_than_64_boxes_are_joined() -> None:
    found = extract(r"\boxed{1} " * 100, Profile.RL)
    assert (found.text, found.listed.count("1")) == ("1", 64)


def test_hostile_responses_cost_linear_time() -> None:
    for text in (
        r"\boxed{1} " * 50_000,
        r"\boxed{" * 50_000,
        "$" * 300_000,
        " " * 300_000,
        "answer is " * 30_000,
    ):
        extract(text, Profile.EVAL)
    spaced = r"\boxed{1}" + " " * 300_000 + r"\boxed{2}"
    assert extract(spaced, Profile.EVAL).text == "2"
