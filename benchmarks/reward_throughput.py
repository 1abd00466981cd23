"""Answers graded per second: two workers compared with plain math-verify in one process, on the same
pairs, in one run.

Pairs are solutions of MATH-500 and GSM8K with their own reference answer (right) and with another problem's
(mostly wrong). The verdict cache is off but where stated; equal pairs within a batch are still
compared once. Four callers send batches of 64, as rollout replicas do, so that one long comparison
does not idle the other worker. Lines: `plain`, `ours`, the ratio, `cached` (the same pairs again,
remembered), 1 % and 5 % hostile responses mixed in as a share of the clean rate, a batch of 1,024
in one call, latencies of the comparisons that needed a worker, cold start, memory of all processes, the
rate when every answer goes to a worker, and both methods on pairs of which no two share a text.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

import psutil
from math_verify import parse, verify
from reward_inputs import Pair, data_dir, distinct_pairs, realistic_pairs, with_hostile

from services.common.answers.normalisation import normalise
from services.common.telemetry.logs import configure_logging
from services.common.trajectory import FinishReason, Outcome, Verdict
from services.reward import equivalence
from services.reward.extraction import Profile
from services.reward.pool import Pool, PoolConfig
from services.reward.verifier import Item, Verifier

WORKERS = 2
CALLERS = 4
SMALL_BATCH = 64
BATCH = 1024


def say(**line: object) -> None:
    """One JSON object."""
    print(json.dumps(line), flush=True)


def plain_rate(pairs: Sequence[Pair]) -> tuple[float, int]:
    """Pairs per second, and how many it accepts."""
    verify(parse(r"\boxed{1}"), parse(r"\boxed{1}"))
    started = time.monotonic()
    accepted = sum(
        bool(verify(parse(rf"\boxed{{{reference_answer}}}"), parse(response)))
        for reference_answer, response in pairs
    )
    return len(pairs) / (time.monotonic() - started), accepted


def grade(
    verifier: Verifier, pairs: Sequence[Pair], size: int = SMALL_BATCH
) -> tuple[float, list[Verdict]]:
    """Pairs per second, and the verdicts."""
    items = [
        Item(str(place), reference_answer, response, FinishReason.STOP)
        for place, (reference_answer, response) in enumerate(pairs)
    ]
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    started = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as callers:
        graded = callers.map(
            lambda batch: verifier.verify(
                batch, [], Profile.RL, timeout_s=3.0, expires_at=math.inf
            ),
            batches,
        )
        verdicts = [verdict for batch in graded for verdict in batch]
    return len(pairs) / (time.monotonic() - started), verdicts


def memory_mb() -> float:
    """Proportional set size of this process and its children."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return round(sum(member.memory_full_info().pss for member in family) / 2**20, 1)


def percentile(values: Sequence[float], share: float) -> float | None:
    """By rank; None without values."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="150 pairs")
    count = 150 if parser.parse_args().quick else 3000
    configure_logging("benchmark", "error", "console")
    data_dir()
    pairs = realistic_pairs(count)
    plain, plain_accepted = plain_rate(pairs)
    say(
        method="plain math-verify, one process",
        pairs=count,
        per_second=round(plain, 1),
        accepted=plain_accepted,
    )
    measure(pairs, plain)
    measure_workers_alone(pairs, plain)
    measure_distinct(distinct_pairs()[:count])


def measure_workers_alone(pairs: Sequence[Pair], plain: float) -> None:
    """Every answer that was found is compared by a worker: what the rules in the service save."""
    with (
        fresh_pool() as pool,
        patch.object(equivalence, "_FIRST", ()),
        patch.object(equivalence, "_ANY_TYPE", ()),
        patch.object(equivalence, "_BY_TYPE", {}),
    ):
        rate, _ = grade(Verifier(pool, cache_size=1), pairs)
    say(
        method="ours, every answer to a worker",
        per_second=round(rate, 1),
        ratio=round(rate / plain, 2),
    )


def measure_distinct(pairs: Sequence[Pair]) -> None:
    """Texts that neither method has seen before: no cache of theirs helps."""
    plain, _ = plain_rate(pairs)
    with fresh_pool() as pool:
        normalise.cache_clear()
        rate, _ = grade(Verifier(pool, cache_size=1), pairs)
    say(
        method="ours, all texts distinct",
        pairs=len(pairs),
        plain_per_second=round(plain, 1),
        per_second=round(rate, 1),
        ratio=round(rate / plain, 2),
    )


@contextmanager
def fresh_pool() -> Iterator[Pool]:
    """Its workers know none of the pairs: sympy remembers what it has simplified."""
    started = time.monotonic()
    pool = Pool(PoolConfig(workers=WORKERS))
    pool.start()
    say(cold_start_s=round(time.monotonic() - started, 2))
    try:
        yield pool
    finally:
        pool.close()


def measure(pairs: Sequence[Pair], plain: float) -> None:
    """Everything but the reference."""
    with fresh_pool() as pool:
        before = memory_mb()
        clean, verdicts = grade(Verifier(pool, cache_size=1), pairs)
        walls = [verdict.wall_ms for verdict in verdicts if verdict.wall_ms > 0]
        say(
            method="ours, 2 workers, no cache",
            per_second=round(clean, 1),
            ratio=round(clean / plain, 2),
            accepted=sum(verdict.outcome is Outcome.CORRECT for verdict in verdicts),
            needed_a_worker=len(walls),
            worker_ms={
                "p50": percentile(walls, 0.5),
                "p99": percentile(walls, 0.99),
                "max": percentile(walls, 1.0),
            },
            unverifiable=sum(verdict.outcome is Outcome.UNVERIFIABLE for verdict in verdicts),
        )
        remembering = Verifier(pool, cache_size=65_536)
        grade(remembering, pairs)
        cached, _ = grade(remembering, pairs)
        say(
            method="ours, every pair remembered",
            per_second=round(cached, 1),
            ratio=round(cached / plain, 2),
        )
        say(memory_mb={"before": before, "after": memory_mb()})
    for share in (0.01, 0.05):
        with fresh_pool() as pool:
            mixed, graded = grade(Verifier(pool, cache_size=1), with_hostile(list(pairs), share))
        killed = sum(verdict.reason in ("deadline", "memory", "crash") for verdict in graded)
        say(
            hostile=share,
            per_second=round(mixed, 1),
            of_clean=round(mixed / clean, 3),
            killed=killed,
        )
    with fresh_pool() as pool:
        rate, batch = grade(Verifier(pool, cache_size=1), pairs[:BATCH], BATCH)
    say(batch=len(batch), seconds=round(len(batch) / rate, 3))


if __name__ == "__main__":
    main()
