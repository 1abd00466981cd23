"""Whose turn it is, and which services a job gets, decided over what was seen free."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


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
    reason: str | None = None
    """Why it cannot be placed however long it waits; None when it only waits for its turn."""


@dataclass
class FreeServices:
    """Addresses that are up and unleased, in the order of the configuration; consumed by `place_all`."""

    trainers: list[str]
    replicas: list[str]
    reward_is_up: bool
    leased_replicas: int = 0
    """Replicas of running attempts: they become free some day."""
    blocked: set[str] = field(default_factory=set)
    """Services that a job waits for whose turn it is: one behind it must not take them away."""


@dataclass(frozen=True)
class Waiter:
    """A waiting job in the queue."""

    job_id: str
    project: str
    key: str
    """API key that submitted it; "" for a local user without one."""
    priority: int


@dataclass(frozen=True)
class Share:
    """Services that a project or a key has had."""

    running: int = 0
    """Its jobs that have services now."""
    last_placed_at: float = 0.0
    """When one of its jobs was last given services, in Unix seconds; 0 for never."""


_NOTHING: Final = Share()


def fair_order(
    waiting: Sequence[Waiter], projects: Mapping[str, Share], keys: Mapping[str, Share]
) -> list[str]:
    """Ids in the order of their turn; `waiting` is oldest first.

    Projects take turns, whatever the priorities of their jobs. Within a project a higher priority
    goes first, and among equals the project's API keys take turns.
    """
    by_priority = sorted(waiting, key=lambda waiter: -waiter.priority)
    within = _take_turns(
        by_priority, lambda waiter: waiter.key, keys, lambda waiter: -waiter.priority
    )
    return [
        waiter.job_id
        for waiter in _take_turns(within, lambda waiter: waiter.project, projects, lambda _: 0)
    ]


def _take_turns(
    waiting: Sequence[Waiter],
    owner_of: Callable[[Waiter], str],
    shares: Mapping[str, Share],
    level_of: Callable[[Waiter], int],
) -> list[Waiter]:
    """By level; at one level first the owner with the fewest jobs, running or ahead in the queue,
    so that a hundred jobs of one do not delay others; then the one whose last job was placed longest
    ago, so that a single trainer goes from one to the next; then in the given order.
    """
    ahead: Counter[str] = Counter()
    ranked: list[tuple[int, int, float, int]] = []
    for place, waiter in enumerate(waiting):
        owner = owner_of(waiter)
        had = shares.get(owner, _NOTHING)
        turn = had.running + ahead[owner]
        ranked.append((level_of(waiter), turn, had.last_placed_at, place))
        ahead[owner] += 1
    return [waiting[place] for *_, place in sorted(ranked)]


def place_all(needs: Sequence[Need], free: FreeServices) -> list[Placement | Waiting]:
    """Decide for each job, in the order of their turn.

    A job that lacks a service blocks that service, and it alone, for those behind it: they cannot
    starve it, and those that can do without it go ahead. A job that needs more replicas than there
    are blocks nothing: it might wait for ever.
    """
    outcomes: list[Placement | Waiting] = []
    replicas_up = len(free.replicas) + free.leased_replicas
    for need in needs:
        if need.rollout_replicas > replicas_up:
            reason = (
                f"The job needs {need.rollout_replicas} rollout replicas (resources.rollout_replicas); {replicas_up} "
                "respond. Other jobs go ahead of it until more replicas run. Start more, or submit it with fewer."
            )
            outcomes.append(Waiting(need.job_id, "rollout", reason))
            continue
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
