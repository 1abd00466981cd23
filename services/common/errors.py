"""Errors that cross a boundary: one class, one table of codes, translated to gRPC and HTTP from
there.

A message states what was attempted, the offending value, the rule and the way out. Codes that end a
job are the ones a user sees in `error.code`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

GRPC_CODE_METADATA: Final = "dirl-error-code"
GRPC_RETRY_METADATA: Final = "dirl-retry-after-s"


@dataclass(frozen=True)
class ErrorKind:
    """How one code is answered on each transport."""

    grpc_status: str
    """Name of a member of grpc.StatusCode."""
    http_status: int
    http_type: str
    """`error.type` of the REST envelope."""
    retryable: bool = False
    """Whether another attempt of the same job may succeed."""


_INVALID = ErrorKind("INVALID_ARGUMENT", 400, "invalid_request_error")
_PRECONDITION = ErrorKind("FAILED_PRECONDITION", 409, "conflict_error")
_UNAVAILABLE = ErrorKind("UNAVAILABLE", 503, "capacity_error", retryable=True)
_INTERNAL = ErrorKind("INTERNAL", 500, "internal_error")
_RETRYABLE = ErrorKind("INTERNAL", 500, "internal_error", retryable=True)

ERROR_KINDS: Final[Mapping[str, ErrorKind]] = {
    # The request
    "invalid_request": _INVALID,
    "dataset_invalid": _INVALID,
    "spec_invalid": _INVALID,
    "model_invalid": _INVALID,
    "unauthenticated": ErrorKind("UNAUTHENTICATED", 401, "authentication_error"),
    "permission_denied": ErrorKind("PERMISSION_DENIED", 403, "permission_error"),
    "not_found": ErrorKind("NOT_FOUND", 404, "not_found_error"),
    "conflict": ErrorKind("ALREADY_EXISTS", 409, "conflict_error"),
    "illegal_transition": _PRECONDITION,
    "stale_attempt": _PRECONDITION,
    "stale_weights": _PRECONDITION,
    "payload_too_large": ErrorKind("INVALID_ARGUMENT", 413, "invalid_request_error"),
    "quota_exceeded": ErrorKind("RESOURCE_EXHAUSTED", 403, "permission_error"),
    "rate_limited": ErrorKind("RESOURCE_EXHAUSTED", 429, "rate_limit_error", retryable=True),
    "busy": ErrorKind("RESOURCE_EXHAUSTED", 503, "capacity_error", retryable=True),
    # The checkpoint
    "checkpoint_invalid": ErrorKind("DATA_LOSS", 409, "conflict_error"),
    "checkpoint_failed": _RETRYABLE,
    "disk_full": _INTERNAL,
    "store_unavailable": _UNAVAILABLE,
    # The run
    "preflight_failed": _INVALID,
    "oom_rollout": _RETRYABLE,
    "oom_train": _RETRYABLE,
    "rollout_unavailable": _UNAVAILABLE,
    "trainer_unavailable": _UNAVAILABLE,
    "verifier_unavailable": _UNAVAILABLE,
    "queue_unavailable": _UNAVAILABLE,
    "reward_error_rate": _INTERNAL,
    "weight_sync_timeout": ErrorKind("DEADLINE_EXCEEDED", 504, "internal_error", retryable=True),
    "weight_digest_mismatch": ErrorKind("DATA_LOSS", 500, "internal_error", retryable=True),
    "parity_violation": _INTERNAL,
    "nan_loss": _INTERNAL,
    "no_learning_signal": _INTERNAL,
    "worker_lost": _UNAVAILABLE,
    "deadline_exceeded": ErrorKind("DEADLINE_EXCEEDED", 504, "internal_error", retryable=True),
    "cancelled": ErrorKind("CANCELLED", 409, "conflict_error"),
    "internal": _INTERNAL,
}


class PlatformError(Exception):
    """A failure with a code of ERROR_KINDS and a message fit for the user."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        if code not in ERROR_KINDS:
            raise ValueError(f"{code!r} is no error code; the codes are {sorted(ERROR_KINDS)}")
        super().__init__(message if hint is None else f"{message} {hint}")
        self.code = code
        self.message = str(self)
        self.param = param
        """Path of the offending field, e.g. `rl.num_generations`, when there is one."""
        self.retry_after_s = retry_after_s
        """When to come back, where the one who refused knows it."""

    @property
    def kind(self) -> ErrorKind:
        """Row of the table."""
        return ERROR_KINDS[self.code]

    @property
    def retryable(self) -> bool:
        """Whether another attempt may succeed."""
        return self.kind.retryable


@dataclass(frozen=True)
class Problem:
    """One of several faults found together, each with its place."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ProblemsError(PlatformError):
    """Everything that is wrong with an input, at once."""

    def __init__(
        self, code: str, what: str, problems: list[Problem], *, total: int | None = None
    ) -> None:
        """`total` counts all problems where `problems` lists only the first ones."""
        count = len(problems) if total is None else total
        lines = "\n".join(f"  {problem}" for problem in problems)
        rest = f"\n  … and {count - len(problems)} more" if count > len(problems) else ""
        super().__init__(code, f"{what}: {count} problem{'s' * (count != 1)}\n{lines}{rest}")
        self.problems = problems
        self.param = problems[0].path if len(problems) == 1 else None
