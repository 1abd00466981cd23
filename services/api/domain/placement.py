"""Whose turn it is, and which services a job gets, decided over what was seen free."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Need:
    """What a job asks for."""

    job_id: str
    rollout_replicas: int
    """0 for a job that decodes nothing."""

    @property
    def needs_reward(self) -> bool:
        """Decoded responses are graded."""
        return self.rollout_replicas > 0


@dataclass(frozen=True)
class Placement:
    """Services chosen for a job."""

    job_id: str
    trainer: str
    replicas: tuple[str, ...]


@dataclass(frozen=True)
class Waiting:
    """A job that must wait, and for which service."""

    job_id: str
    service: str
    """trainer | rollout | reward"""


@dataclass
class FreeServices:
    """Addresses that are up and unleased, in the order of the configuration; consumed by `place`."""

    trainers: list[str]
    replicas: list[str]
    reward_is_up: bool
    blocked: set[str] = field(default_factory=set)
    """Services that a job waits for whose turn it is: one behind it must not take them away."""


@dataclass(frozen=True)
class Waiter:
    """A waiting job in the queue."""

    job_id: str
    priority: int
    owner: str
    """API key that submitted it; local users without one share a place."""


def fair_order(waiting: Sequence[Waiter], running: Mapping[str, int]) -> list[str]:
    """Ids in the order of their turn; `waiting` is oldest first, `running` counts jobs with
    services by owner.

    A higher priority goes first. Among equals the owner with the fewest jobs so far, running or
    ahead in the queue, so that a hundred jobs of one key do not delay others; then the oldest.
    """
    turn = Counter(running)
    ranked: list[tuple[int, int, int, str]] = []
    for waiter in sorted(
        waiting, key=lambda item: -item.priority
    ):  # stable: oldest first within a priority
        ranked.append((-waiter.priority, turn[waiter.owner], len(ranked), waiter.job_id))
        turn[waiter.owner] += 1
    return [job_id for *_, job_id in sorted(ranked)]


def place_all(needs: Sequence[Need], free: FreeServices) -> list[Placement | Waiting]:
    """Decide for each job, in the order of their turn.

    A job that lacks a service blocks that service, and it alone, for those behind it: they cannot
    starve it, and those that can do without it go ahead.
    """
    outcomes: list[Placement | Waiting] = []
    for need in needs:
        lacking = _find_first_lacking(need, free)
        if lacking is not None:
            free.blocked.add(lacking)
            outcomes.append(Waiting(need.job_id, lacking))
            continue
        replicas = tuple(free.replicas[: need.rollout_replicas])
        del free.replicas[: need.rollout_replicas]
        outcomes.append(Placement(need.job_id, free.trainers.pop(0), replicas))
    return outcomes


def _find_first_lacking(need: Need, free: FreeServices) -> str | None:
    if not free.trainers or "trainer" in free.blocked:
        return "trainer"
    if need.rollout_replicas and (
        len(free.replicas) < need.rollout_replicas or "rollout" in free.blocked
    ):
        return "rollout"
    if need.needs_reward and not free.reward_is_up:
        return "reward"
    return None
