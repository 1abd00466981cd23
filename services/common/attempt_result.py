"""How an attempt stands and how it ended: one value for learner, trainer service and scheduler."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from services.common.errors import PlatformError


class AttemptState(StrEnum):
    """Where an attempt stands."""

    PROVISIONING = "provisioning"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether its services are free again."""
        return self in (AttemptState.SUCCEEDED, AttemptState.STOPPED, AttemptState.FAILED)


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt ended."""

    state: AttemptState
    """succeeded | stopped | failed"""
    error_code: str = ""
    """A code of services.common.errors; empty unless the attempt failed."""
    error_message: str = ""
    retryable: bool = False
    """Whether another attempt may succeed."""

    @classmethod
    def from_error(cls, error: PlatformError) -> Self:
        """The result of an attempt that failed with this error."""
        return cls(AttemptState.FAILED, error.code, error.message, error.retryable)
