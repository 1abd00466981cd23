"""Which row a position of the prompt ledger gets, from what earlier steps found out about the rows.

A position has a few candidates, the next rows of the seeded order, and the sampler chooses one. The
choice is a function of the seed, the position and the results of the steps before, so a repetition
makes the same choices, and so does a resumed attempt.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.common.errors import PlatformError
from services.common.job_spec import CurriculumSpec
from services.trainer.learner.ledger import MixedOrder, PromptOrder, PromptResult

_MEMORY: Final = 0.5
"""Weight of earlier visits at each new one: a pass rate of long ago says little about these weights."""


@dataclass
class _RowCounts:
    attempts: int = 0
    successes: int = 0
    recent_attempts: float = 0.0
    """Attempts, those of earlier visits discounted."""
    recent_successes: float = 0.0


class PromptStatistics:
    """Attempts and successes of every row that was trained on or dropped."""

    def __init__(self) -> None:
        self._counts: dict[int, _RowCounts] = {}

    def add(self, results: Iterable[PromptResult]) -> None:
        """Count the results of a finished step."""
        for result in results:
            counts = self._counts.setdefault(result.row, _RowCounts())
            counts.attempts += result.attempts
            counts.successes += result.successes
            counts.recent_attempts = _MEMORY * counts.recent_attempts + result.attempts
            counts.recent_successes = _MEMORY * counts.recent_successes + result.successes

    def posterior(self, row: int) -> tuple[float, float]:
        """Return the parameters of the Beta posterior of a row's pass rate, from a uniform prior."""
        counts = self._counts.get(row, _RowCounts())
        failures = counts.recent_attempts - counts.recent_successes
        return 1.0 + counts.recent_successes, 1.0 + failures

    def totals(self) -> dict[int, tuple[int, int]]:
        """Return (attempts, successes) by row, over the whole stage."""
        return {row: (counts.attempts, counts.successes) for row, counts in self._counts.items()}

    def to_json(self) -> list[list[float]]:
        """Plain values: row, attempts, successes and the discounted ones."""
        return [
            [
                row,
                counts.attempts,
                counts.successes,
                counts.recent_attempts,
                counts.recent_successes,
            ]
            for row, counts in sorted(self._counts.items())
        ]

    @classmethod
    def from_json(cls, data: Iterable[Iterable[Any]]) -> "PromptStatistics":
        """Inverse of to_json; raises `checkpoint_invalid`."""
        statistics = cls()
        try:
            for row, attempts, successes, recent_attempts, recent_successes in data:
                statistics._counts[int(row)] = _RowCounts(
                    int(attempts), int(successes), float(recent_attempts), float(recent_successes)
                )
        except (TypeError, ValueError) as error:
            raise PlatformError(
                "checkpoint_invalid", f"Cannot read the results of the prompts: {error!r}."
            ) from error
        return statistics


def choose_row(
    spec: CurriculumSpec,
    order: PromptOrder | MixedOrder,
    position: int,
    statistics: PromptStatistics,
    key: str,
) -> int:
    """Return the row of a position; `key` names seed and stage."""
    if spec.sampler == "uniform":
        return order.row(position)
    first = position * spec.candidates
    rows = list(dict.fromkeys(order.row(place) for place in range(first, first + spec.candidates)))
    if spec.sampler == "skip_solved":
        return next((row for row in rows if not _is_solved(spec, statistics, row)), rows[0])
    # A draw from the posterior and not its mean: a row of which little is known gets its chance.
    rng = random.Random(f"{key}:{position}")
    draws = [rng.betavariate(*statistics.posterior(row)) for row in rows]
    return min(zip(rows, draws, strict=True), key=lambda pair: abs(pair[1] - spec.target))[0]


def _is_solved(spec: CurriculumSpec, statistics: PromptStatistics, row: int) -> bool:
    """Whether every recent response was a success, or as many as `solved` says."""
    successes, failures = (count - 1.0 for count in statistics.posterior(row))
    return successes > 0 and successes >= spec.solved * (successes + failures)


def count_differences(statistics: PromptStatistics, records: Iterable[PromptResult]) -> int:
    """Return how many rows the statistics count otherwise than the step log."""
    logged = PromptStatistics()
    logged.add(records)
    first, second = statistics.totals(), logged.totals()
    return sum(first.get(row) != second.get(row) for row in {*first, *second})


def summarize(statistics: PromptStatistics) -> Mapping[str, int]:
    """Return the sums that a certificate states."""
    totals = statistics.totals()
    return {
        "prompts_seen": len(totals),
        "attempts": sum(attempts for attempts, _ in totals.values()),
        "successes": sum(successes for _, successes in totals.values()),
    }
