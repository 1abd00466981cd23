"""State machine of a replica, as immutable values without I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Literal, Self

from pydantic import Field

from services.common.diffusion.config import Frozen
from services.common.errors import PlatformError
from services.common.settings import HostPort


class ReplicaState(StrEnum):
    """States of a replica."""

    IDLE = "idle"
    """Not assigned to a job."""
    LOADING = "loading"
    """Loading the model of its assignment."""
    WAITING_FOR_WEIGHTS = "waiting_for_weights"
    READY = "ready"
    """Accepts prompts."""
    SLEEPING = "sleeping"
    """Has freed its memory; accepts no prompts until weights are loaded."""
    UNHEALTHY = "unhealthy"
    """Accepts no prompts until weights are loaded successfully or it is assigned again."""


_S = ReplicaState
TRANSITIONS: Final[Mapping[ReplicaState, frozenset[ReplicaState]]] = {
    _S.IDLE: frozenset({_S.LOADING}),
    _S.LOADING: frozenset({_S.WAITING_FOR_WEIGHTS, _S.IDLE}),
    _S.WAITING_FOR_WEIGHTS: frozenset({_S.READY, _S.UNHEALTHY, _S.LOADING, _S.IDLE}),
    _S.READY: frozenset({_S.READY, _S.SLEEPING, _S.UNHEALTHY, _S.LOADING, _S.IDLE}),
    _S.SLEEPING: frozenset({_S.READY, _S.UNHEALTHY, _S.LOADING, _S.IDLE}),
    _S.UNHEALTHY: frozenset({_S.READY, _S.UNHEALTHY, _S.LOADING, _S.IDLE}),
}


class Assignment(Frozen):
    """The lease of a replica to one attempt of a job."""

    job_id: str = Field(min_length=1)
    attempt: int = Field(ge=1)
    model_path: str = Field(min_length=1)
    """Directory with config.json and tokenizer."""
    prompts_stream: str = Field(min_length=1)
    groups_stream: str = Field(min_length=1)
    reward_address: HostPort
    max_sequence_tokens: int = Field(gt=0)
    """Longest prompt + response, in tokens."""
    max_batch_size: int = Field(ge=0)
    """Responses decoded concurrently; 0 lets the replica choose."""
    dtype: Literal["float32", "bfloat16"]

    def __str__(self) -> str:
        return f"{self.job_id} attempt {self.attempt}"


@dataclass(frozen=True)
class LoadedWeights:
    """The weight version that a replica has loaded."""

    version: int
    digest: str
    parity_gap: float | None = None
    """Difference of the log-probabilities from those of the learner on the probe; None without a
    probe.
    """


@dataclass(frozen=True, kw_only=True)
class Replica:
    """State of a replica. Only the engine thread replaces the value; any thread may read it."""

    state: ReplicaState = ReplicaState.IDLE
    assignment: Assignment | None = None
    weights: LoadedWeights | None = None
    """None before the first load and after a failed one."""
    last_error: str = ""

    def move_to(self, state: ReplicaState, **changes: Any) -> Self:
        """Return the replica in its next state; raises PlatformError("illegal_transition")."""
        if state not in TRANSITIONS[self.state]:
            allowed = ", ".join(sorted(TRANSITIONS[self.state]))
            raise PlatformError(
                "illegal_transition",
                f"A replica cannot go from {self.state} to {state}; it can go to: {allowed}.",
            )
        return replace(self, state=state, **changes)

    def needs(self, wanted: Assignment) -> bool:
        """Whether `wanted` must be loaded; False if it is already loaded.

        Raises PlatformError: "stale_attempt" for an older attempt of the assigned job, "conflict"
        for the assigned attempt with other values.
        """
        held = self.assignment
        if held is None or held.job_id != wanted.job_id or held.attempt < wanted.attempt:
            return True
        if held.attempt > wanted.attempt:
            raise PlatformError(
                "stale_attempt",
                f"Cannot assign {wanted}: the replica is already assigned to attempt {held.attempt}.",
            )
        if held != wanted:
            raise PlatformError(
                "conflict",
                f"Cannot assign {wanted} again with other values.",
                hint="Release it first.",
            )
        return self.state is ReplicaState.UNHEALTHY

    def holds(self, job_id: str, attempt: int) -> bool:
        """Whether releasing this attempt ends the assignment; not for later attempts or other jobs."""
        return self.assignment is not None and (
            self.assignment.job_id == job_id and self.assignment.attempt <= attempt
        )

    def accepts(self, job_id: str, attempt: int, version: int) -> bool:
        """Whether a weight version must be loaded; False if it is already loaded.

        Raises PlatformError: "stale_attempt" for another job or attempt, "stale_weights" for an
        older version.
        """
        held = self.assignment
        if held is None or (held.job_id, held.attempt) != (job_id, attempt):
            raise PlatformError(
                "stale_attempt",
                f"Cannot load weights of {job_id} attempt {attempt}: the replica is assigned to {held or 'nothing'}.",
                hint="Assign the replica first.",
            )
        if self.weights is not None and version < self.weights.version:
            raise PlatformError(
                "stale_weights",
                f"Cannot load weight version {version} of {job_id}: version {self.weights.version} is loaded, and "
                "versions only grow within an attempt.",
            )
        return (
            self.weights is None
            or version > self.weights.version
            or self.state is ReplicaState.SLEEPING
        )

    def may_sleep(self, job_id: str, attempt: int) -> bool:
        """Whether there is memory to free; False if the replica sleeps or has no weights.

        Raises PlatformError("stale_attempt") for another job or attempt than the assigned one.
        """
        held = self.assignment
        if held is None or (held.job_id, held.attempt) != (job_id, attempt):
            raise PlatformError(
                "stale_attempt",
                f"Cannot put the replica to sleep for {job_id} attempt {attempt}: it is assigned to "
                f"{held or 'nothing'}.",
            )
        return self.state is ReplicaState.READY
