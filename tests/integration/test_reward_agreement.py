"""The verifier against cases that others wrote, and against the reference answers of public data sets.

DIRL_TEST_DATA names a directory with verifier_cases.jsonl and the data sets; without it these tests
are skipped.
"""

import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reward_metamorphic import changed, kept, reference_answers
from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.common.data.rows import read_rows
from services.common.trajectory import FinishReason, Outcome, Verdict
from services.reward.comparison_request import ComparisonRequest
from services.reward.extraction import Profile
from services.reward.pool import Pool, PoolConfig
from services.reward.verifier import Item, Verifier

pytestmark = pytest.mark.skipif(
    "DIRL_TEST_DATA" not in os.environ,
    reason="DIRL_TEST_DATA names no directory of public data sets",
)


@pytest.fixture(scope="module")
def data() -> Path:
    return Path(os.environ["DIRL_TEST_DATA"])


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(PoolConfig(workers=2, min_cpu_share=0.0))
    pool.start()
    yield pool
    pool.close()


def verify(pool: Pool, pairs: list[tuple[str, str]], profile: Profile) -> list[Verdict]:
    """Grade (reference answer, response) pairs."""
    items = [
        Item(str(place), reference_answer, response, FinishReason.STOP)
        for place, (reference_answer, response) in enumerate(pairs)
    ]
    return Verifier(pool, cache_size=1).verify(
        items, [], profile, timeout_s=10.0, expires_at=math.inf
    )


def disagreements(pool: Pool, cases: list[dict[str, Any]]) -> dict[str, str]:
    """What was graded otherwise than expected: accepted or refused, by reference answer and answer."""
    verdicts = verify(pool, [(case["gold"], case["answer"]) for case in cases], Profile.EVAL)
    return {
        f"{case['gold']!r} | {case['answer']!r}": "accepted"
        if verdict.outcome is Outcome.CORRECT
        else "refused"
        for case, verdict in zip(cases, verdicts, strict=True)
        if (verdict.outcome is Outcome.CORRECT) != case["expected"]
    }


CONTRADICTIONS = {
    f"{reference!r} | {response!r}"
    for reference, response in (
        # The sides of an equation, or of an approximation, differ.
        ("$x = 11$", "$x = 5+5+1 = 7 =11$"),
        ("$x = 1/3$", r"$x = 5+5+1 = 1/3 \approx 11$"),
        ("$10/9$", r"Answer $ \frac{1}{2} \$ = \frac{10}{9} $"),
        ("$1/3$", r"$x=1/3\approx1.3$"),
        # A reference answer with doubled backslashes.
        (r"$\\boxed{35 cm} ++++++ \\boxed{4}$", "${35 cm,4}$"),
        (r"\\boxed{W(n) = 1 \\text{ and } W(n) = -1", "W(x)=1orW(x)=-1"),
    )
}
"""Cases of other projects that the policy contradicts: all of them are refused."""


def test_cases_of_other_projects_are_graded_as_they_expect(pool: Pool, data: Path) -> None:
    cases = [json.loads(line) for line in (data / "verifier_cases.jsonl").read_text().splitlines()]
    wrong = disagreements(pool, cases)
    assert len(cases) == 225
    assert list(wrong.values()).count("accepted") == 0
    assert wrong.keys() == CONTRADICTIONS


def test_every_reference_answer_is_correct_against_itself(pool: Pool, data: Path) -> None:
    for path in sorted(data.glob("*/test.jsonl")):
        reference_answers = [row.answer or "" for row in read_rows(path, "rl")]
        verdicts = verify(
            pool,
            [
                (reference_answer, rf"so \boxed{{{reference_answer}}}.")
                for reference_answer in reference_answers
            ],
            Profile.RL,
        )
        failed = [
            reference_answer
            for reference_answer, verdict in zip(reference_answers, verdicts, strict=True)
            if verdict.outcome is not Outcome.CORRECT
        ]
        assert failed == [], path


def test_the_comparator_itself_accepts_every_reference_answer_of_a_sample(
    pool: Pool, data: Path
) -> None:
    """Without the equal-spelling shortcut: the pairs go straight to the worker processes."""
    rng = random.Random(0)
    reference_answers = [
        row.answer or ""
        for name in ("math500", "olympiadbench")
        for row in read_rows(data / name / "test.jsonl", "rl")
    ]
    sample = rng.sample(
        [reference_answer for reference_answer in reference_answers if "\\" in reference_answer],
        120,
    )
    futures = pool.submit(
        [
            ComparisonRequest(
                reference_answer,
                reference_answer,
                infer_answer_type(reference_answer),
                Profile.RL,
            )
            for reference_answer in sample
        ],
        timeout_s=10.0,
        expires_at=math.inf,
    )
    failed = [
        reference_answer
        for reference_answer, future in zip(sample, futures, strict=True)
        if future.result(60).outcome is not Outcome.CORRECT
    ]
    assert failed == []


@pytest.mark.parametrize(("rewrite", "expected"), [(kept, True), (changed, False)])
def test_rewrites_of_reference_answers_are_graded_by_their_effect(
    pool: Pool, data: Path, rewrite: Callable[[str], Iterator[tuple[str, str]]], expected: bool
) -> None:
    """A sample of every type; the benchmark grades all."""
    by_type: dict[AnswerType, list[tuple[str, str, str]]] = {}
    for reference in reference_answers(data):
        for rule, answer in rewrite(reference):
            by_type.setdefault(infer_answer_type(reference), []).append((rule, reference, answer))
    rng = random.Random(2)
    sample = [row for rows in by_type.values() for row in rng.sample(rows, min(len(rows), 150))]
    assert len(by_type) >= 12
    verdicts = verify(
        pool, [(reference, rf"\boxed{{{answer}}}") for _, reference, answer in sample], Profile.RL
    )
    assert [
        row
        for row, verdict in zip(sample, verdicts, strict=True)
        if (verdict.outcome is Outcome.CORRECT) is not expected
    ] == []


def test_a_changed_digit_is_never_accepted(pool: Pool, data: Path) -> None:
    rng = random.Random(1)
    reference_answers = [
        row.answer or ""
        for name in ("math500", "aime24", "amc23")
        for row in read_rows(data / name / "test.jsonl", "rl")
    ]
    pairs = []
    for reference_answer in reference_answers:
        places = [match.start() for match in re.finditer(r"\d", reference_answer)]
        if places:
            place = rng.choice(places)
            digit = rng.choice([digit for digit in "123456789" if digit != reference_answer[place]])
            pairs.append(
                (
                    reference_answer,
                    rf"\boxed{{{reference_answer[:place]}{digit}{reference_answer[place + 1 :]}}}",
                )
            )
    verdicts = verify(pool, pairs, Profile.RL)
    accepted = [
        pair
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if verdict.outcome is Outcome.CORRECT
    ]
    assert len(pairs) > 200
    assert accepted == []
