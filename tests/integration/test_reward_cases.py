"""Rewrites that keep or change the meaning of an answer, graded from the raw text as `dirl reward
check` does.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.trajectory import FinishReason, Outcome, Verdict
from services.reward.extraction import Profile
from services.reward.pool import Pool, PoolConfig
from services.reward.verifier import Item, Verifier

GOLDEN = Path(__file__).parents[1] / "golden"


def test_rewrites_are_accepted_and_changes_refused() -> None:
    cases = read_cases(GOLDEN / "reward_cases.jsonl")
    assert len(cases) > 200
    assert find_disagreements(cases) == []


def test_cases_written_from_the_policy_are_graded_by_it() -> None:
    cases = read_cases(GOLDEN / "reward_policy_cases.jsonl")
    assert len(cases) > 300
    assert find_disagreements(cases) == []


def test_markdown_answers_are_read_where_models_state_them() -> None:
    """Each answer is accepted for its reference answer, and refused for a decoy in its text."""
    read = read_cases(GOLDEN / "markdown_answers.jsonl")
    assert len(read) > 90
    assert (
        find_disagreements(
            [
                {"gold": case[key], "answer": case["answer"], "expected": key == "gold"}
                for case in read
                for key in ("gold", "decoy")
            ]
        )
        == []
    )


@pytest.mark.skipif(
    "DIRL_TEST_CASES" not in os.environ, reason="DIRL_TEST_CASES names no directory of cases"
)
def test_cases_of_public_reports_are_graded_as_labelled() -> None:
    cases = read_cases(Path(os.environ["DIRL_TEST_CASES"]) / "verifier_cases_2.jsonl")
    assert len(cases) == 86
    assert find_disagreements(cases) == []


def read_cases(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def find_disagreements(cases: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return profile, reference answer and answer of the cases that are graded otherwise than labelled."""
    pool = Pool(PoolConfig(workers=2, min_cpu_share=0.0))
    pool.start()
    try:
        return [
            (profile, case["gold"], case["answer"])
            for profile in Profile
            for case, verdict in grade(pool, cases, profile)
            if (verdict.outcome is Outcome.CORRECT) != case["expected"]
        ]
    finally:
        pool.close()


def grade(
    pool: Pool, cases: list[dict[str, Any]], profile: Profile
) -> Iterator[tuple[dict[str, Any], Verdict]]:
    chosen = [case for case in cases if case.get("profile", Profile.EVAL) == profile]
    items = [
        Item(
            str(place),
            case["gold"],
            case["answer"],
            FinishReason.STOP,
            row={"prompt": case.get("prompt", "")},
        )
        for place, case in enumerate(chosen)
    ]
    verdicts = Verifier(pool, cache_size=1).verify(
        items, [], profile, timeout_s=30.0, expires_at=math.inf
    )
    return zip(chosen, verdicts, strict=True)
