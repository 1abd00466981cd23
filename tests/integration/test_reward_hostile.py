"""Answers made to hurt: none hangs or crashes anything, none is rewarded, and its neighbours are
graded as ever.
"""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reward_inputs import hostile_responses
from services.common.trajectory import FinishReason, Outcome, Verdict
from services.reward.extraction import Profile, extract
from services.reward.pool import Pool, PoolConfig
from services.reward.verifier import Item, Verifier

CASES = Path(__file__).parents[1] / "golden" / "reward_cases.jsonl"
PIECES = (
    "1", "23", "x", "y", r"\frac{", "}", "{", "(", ")", "[", "]", "^", "_", "!", "+", "-", "*", "/", "=", "<", ",", ".",
    " ",    r"\sqrt", r"\sum_{i=1}^", r"\int", r"\boxed{", r"\text{", r"\log", r"\sin", r"\pi", r"\infty", r"\cup", "%",
    r"\\", "&", r"\begin{pmatrix}", r"\end{pmatrix}", "$", r"\pm", r"\le", "|", ":", ";", "'", '"', "\n", "é", "√", "²",
)  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(PoolConfig(workers=2, min_cpu_share=0.0))
    pool.start()
    yield pool
    pool.close()


def verify(
    pool: Pool, pairs: list[tuple[str, str]], profile: Profile, timeout_s: float = 0.25
) -> list[Verdict]:
    items = [
        Item(str(place), reference_answer, response, FinishReason.STOP)
        for place, (reference_answer, response) in enumerate(pairs)
    ]
    return Verifier(pool, cache_size=64).verify(
        items, [], profile, timeout_s=timeout_s, expires_at=math.inf
    )


def test_no_hostile_answer_is_rewarded_or_spoils_a_neighbour(pool: Pool) -> None:
    hostile = hostile_responses()
    assert len(hostile) > 200
    pairs = []
    for place, response in enumerate(hostile):
        pairs += [
            ("42", response),
            (str(place), rf"\boxed{{{place}}}"),
            (str(place), rf"\boxed{{{place + 1}}}"),
        ]
    verdicts = verify(pool, pairs, Profile.RL)
    assert {verdict.outcome for verdict in verdicts[1::3]} == {Outcome.CORRECT}
    assert {verdict.outcome for verdict in verdicts[2::3]} == {Outcome.INCORRECT}
    graded = verdicts[0::3]
    assert {verdict.outcome for verdict in graded} == {
        Outcome.INCORRECT, Outcome.NO_ANSWER, Outcome.TRUNCATED, Outcome.TOO_COMPLEX
    }  # fmt: skip
    assert len(psutil.Process(pool.zygote_pid).children()) <= 2
    killed = [verdict for verdict in graded if verdict.reason in ("deadline", "memory", "crash")]
    expensive = [verdict for verdict in graded if verdict.outcome is Outcome.TOO_COMPLEX]
    assert len(killed) < len(expensive) / 2, (
        "the guard refuses most of them before any worker sees them"
    )


def test_hostile_prose_is_not_rewarded_in_evaluation_either(pool: Pool) -> None:
    prose = [response for response in hostile_responses() if extract(response, Profile.RL).failure]
    assert len(prose) > 20
    verdicts = verify(pool, [("42", response) for response in prose], Profile.EVAL)
    assert Outcome.CORRECT not in {verdict.outcome for verdict in verdicts}
    assert all(verdict.outcome.is_scored for verdict in verdicts)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.sampled_from(["42", r"\frac{1}{2}", "x+1", "1,2"]),
)
def test_any_text_gets_a_verdict_that_is_the_answers_own(
    pool: Pool, text: str, reference_answer: str
) -> None:
    (verdict,) = verify(pool, [(reference_answer, rf"\boxed{{{text}}}")], Profile.RL)
    assert verdict.outcome.is_scored, verdict


@settings(max_examples=60)
@given(st.text(max_size=200))
def test_any_response_at_all_gets_a_verdict_in_evaluation(pool: Pool, response: str) -> None:
    (verdict,) = verify(pool, [("42", response)], Profile.EVAL)
    assert verdict.outcome.is_scored, verdict


def test_mutilated_real_answers_get_a_verdict(pool: Pool) -> None:
    rng = random.Random(0)
    pairs = []
    for line in CASES.read_text().splitlines()[::3]:
        case = json.loads(line)
        place, end = sorted(
            (rng.randrange(len(case["answer"]) + 1), rng.randrange(len(case["answer"]) + 1))
        )
        mutilated = case["answer"][:place] + rng.choice(PIECES) + case["answer"][end:]
        pairs.append((case["gold"], rf"\boxed{{{mutilated}}}"))
    verdicts = verify(pool, pairs, Profile.RL, timeout_s=2.0)
    assert [
        (pair, verdict)
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if not verdict.outcome.is_scored
    ] == []
