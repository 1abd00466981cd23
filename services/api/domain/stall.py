"""Jobs without progress: how long each phase of the learner may be silent."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

DEFAULT_BUDGETS_S: Final[Mapping[str, float]] = {
    "loading": 900.0,
    "rollout": 1800.0,
    "reward": 900.0,
    "train": 1800.0,
    "weight_sync": 300.0,
    "eval": 3600.0,
    "checkpoint": 900.0,
    "waiting": 300.0,
}
"""Seconds without an event of the learner after which the job counts as stalled, by phase."""
GIVE_UP_FACTOR: Final = 3.0
"""An attempt that has been silent for so many budgets is ended, and the next one tries again."""


@dataclass(frozen=True)
class Stall:
    """Which phase waits, for what, since when."""

    phase: str
    waiting_for: str | None
    since: float
    """Unix seconds of the learner's last sign of life."""
    budget_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, for storage."""
        return asdict(self)


def find_stall(
    phase: str | None,
    waiting_for: str | None,
    last_heartbeat_at: float,
    now: float,
    budgets: Mapping[str, float],
) -> Stall | None:
    """The stall of a running job, None while it is within the budget of its phase; times are Unix
    seconds.
    """
    name = phase or "loading"
    budget = budgets.get(name, DEFAULT_BUDGETS_S.get(name, max(DEFAULT_BUDGETS_S.values())))
    return (
        Stall(name, waiting_for, last_heartbeat_at, budget)
        if now - last_heartbeat_at > budget
        else None
    )


def must_give_up(stall: Stall, now: float) -> bool:
    """Whether the attempt is not waited for any longer."""
    return now - stall.since > GIVE_UP_FACTOR * stall.budget_s
