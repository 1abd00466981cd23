"""Rewrites that keep or change the meaning of an answer, graded from the raw text as `dirl reward
check` does.
"""

import json
import math
from pathlib import Path

from services.common.trajectory import FinishReason, Outcome
from services.reward.extraction import Profile
from services.reward.pool import Pool, PoolConfig
from services.reward.verifier import Item, Verifier

CASES = Path(__file__).parents[1] / "golden" / "reward_cases.jsonl"


def test_rewrites_are_accepted_and_changes_refused() -> None:
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    items = [
        Item(str(place), case["gold"], case["answer"], FinishReason.STOP)
        for place, case in enumerate(cases)
    ]
    pool = Pool(PoolConfig(workers=2, min_cpu_share=0.0))
    pool.start()
    try:
        verdicts = Verifier(pool, cache_size=1).verify(
            items, [], Profile.EVAL, timeout_s=30.0, expires_at=math.inf
        )
    finally:
        pool.close()
    wrong = {
        (case["gold"], case["answer"])
        for case, verdict in zip(cases, verdicts, strict=True)
        if (verdict.outcome is Outcome.CORRECT) != case["expected"]
    }
    assert len(cases) > 200
    assert wrong == set()
