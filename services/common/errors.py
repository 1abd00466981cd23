"""Errors that cross a boundary: one class, and one table of codes from which gRPC and HTTP statuses
and the reference page are derived.

A message states what was attempted, the offending value, the rule and how to fix it. Codes that end
a job are the ones a user sees in `error.code`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

GRPC_CODE_METADATA: Final = "dirl-error-code"
GRPC_RETRY_METADATA: Final = "dirl-retry-after-s"


@dataclass(frozen=True)
class ErrorKind:
    """One error code: its status on each transport, and what the reference page says of it."""

    grpc_status: str
    """Name of a member of grpc.StatusCode."""
    http_status: int
    http_type: str
    """`error.type` of the REST envelope."""
    retryable: bool
    """Whether another attempt of the same job may succeed."""
    meaning: str
    """What happened."""
    remedy: str
    """How to fix it."""


_INVALID: Final = partial(ErrorKind, "INVALID_ARGUMENT", 400, "invalid_request_error", False)
_PRECONDITION: Final = partial(ErrorKind, "FAILED_PRECONDITION", 409, "conflict_error", False)
_DATA_LOSS: Final = partial(ErrorKind, "DATA_LOSS", 409, "conflict_error", False)
_UNAVAILABLE: Final = partial(ErrorKind, "UNAVAILABLE", 503, "capacity_error", True)
_DEADLINE: Final = partial(ErrorKind, "DEADLINE_EXCEEDED", 504, "internal_error", True)
_INTERNAL: Final = partial(ErrorKind, "INTERNAL", 500, "internal_error", False)
_RETRYABLE: Final = partial(ErrorKind, "INTERNAL", 500, "internal_error", True)

ERROR_KINDS: Final[Mapping[str, ErrorKind]] = {
    # The request
    "invalid_request": _INVALID(
        "The request, a query parameter or a field of its body is not valid.",
        "Correct the field that `param` names; `/docs` of the API describes every request.",
    ),
    "dataset_invalid": _INVALID(
        "Rows of a data file cannot be used for what the job does with them.",
        "Run `dirl data check FILE`; it names every problem with its row.",
    ),
    "spec_invalid": _INVALID(
        "The job spec has unknown keys, values out of range, or keys that contradict each other or the model.",
        "Correct the keys that `problems` lists; the job spec reference has type and range of each.",
    ),
    "model_invalid": _INVALID(
        "The model directory is incomplete, damaged, or of an architecture that is not supported.",
        "Use a checkpoint of the SDAR family, or convert a decoder with `dirl models convert`.",
    ),
    "unauthenticated": ErrorKind(
        "UNAUTHENTICATED",
        401,
        "authentication_error",
        False,
        "The request has no API key, or one that is unknown, revoked or expired.",
        "Send `Authorization: Bearer sk-dirl-…` (`DIRL_API_KEY` for the command line); `dirl keys create` makes a key.",
    ),
    "permission_denied": ErrorKind(
        "PERMISSION_DENIED",
        403,
        "permission_error",
        False,
        "The API key lacks the scope that the request needs.",
        "Use a key with the scope that the message names; paths of the server need `admin`.",
    ),
    "not_found": ErrorKind(
        "NOT_FOUND",
        404,
        "not_found_error",
        False,
        "The object does not exist in the project of the API key.",
        "List the objects of that kind; use a key of the project that owns it.",
    ),
    "conflict": ErrorKind(
        "ALREADY_EXISTS",
        409,
        "conflict_error",
        False,
        "The object exists already, or another operation on it is in progress.",
        "Use the existing object, or wait for the operation to finish.",
    ),
    "illegal_transition": _PRECONDITION(
        "The job's state does not allow the operation.",
        "The message lists the states that the job can move to; wait for one of them.",
    ),
    "stale_attempt": _PRECONDITION(
        "A service was called for an attempt that a newer one has replaced.",
        "Nothing: the newer attempt continues the job.",
    ),
    "stale_weights": _PRECONDITION(
        "A replica was sent weights older than those it has, or trajectories are older than `rl.max_staleness`.",
        "Restart the replica that the message names if it happens again.",
    ),
    "payload_too_large": ErrorKind(
        "INVALID_ARGUMENT",
        413,
        "invalid_request_error",
        False,
        "The body of the request is larger than the limit.",
        "Split the file, or raise `DIRL_MAX_UPLOAD_BYTES`.",
    ),
    "quota_exceeded": ErrorKind(
        "RESOURCE_EXHAUSTED",
        403,
        "permission_error",
        False,
        "The project keeps as many bytes as its quota allows; running jobs are paused.",
        "Delete jobs, checkpoints, files or models, or raise `DIRL_PROJECT_QUOTA_BYTES`; then resume.",
    ),
    "rate_limited": ErrorKind(
        "RESOURCE_EXHAUSTED",
        429,
        "rate_limit_error",
        True,
        "The API key sends more requests per second than `DIRL_RATE_LIMIT_PER_S`, or its project has as many long "
        "requests or event streams open as it may.",
        "Retry after the seconds in `Retry-After`.",
    ),
    "busy": ErrorKind(
        "RESOURCE_EXHAUSTED",
        503,
        "capacity_error",
        True,
        "The service is at capacity, or the database does not answer.",
        "Retry after the seconds in `Retry-After`; `GET /v1/system` shows the state of every service.",
    ),
    # The checkpoint
    "checkpoint_invalid": _DATA_LOSS(
        "A checkpoint does not match its manifest, or does not belong to the job.",
        "Rewind the job to an older checkpoint.",
    ),
    "checkpoint_lost": _DATA_LOSS(
        "No checkpoint of the job verifies, or only one so old that a resume would undo more steps than "
        "`checkpoint.max_undone_steps`; the job is paused.",
        "Restore the checkpoints from a backup, or raise `checkpoint.max_undone_steps`; then resume.",
    ),
    "checkpoint_failed": _RETRYABLE(
        "A checkpoint or a model directory could not be written.",
        "Check the data directory: permissions, mount, file system errors.",
    ),
    "disk_full": ErrorKind(
        "RESOURCE_EXHAUSTED",
        507,
        "capacity_error",
        False,
        "The data directory has no space left; a job that needs it is paused.",
        "Free space or lower `checkpoint.keep_last`, then resume the job or repeat the request.",
    ),
    "storage_unavailable": _UNAVAILABLE(
        "The data directory cannot be read or written.",
        "Check the volume at `DIRL_DATA_DIR`: mounted, writable, without errors. Attempts are retried, then the job "
        "is paused; resume it.",
    ),
    "store_unavailable": _UNAVAILABLE(
        "The object store does not answer, or rejects the request.",
        "Check `DIRL_OBJECT_STORE_URL`, the bucket and the `AWS_` variables of the trainer.",
    ),
    # The run
    "preflight_failed": _INVALID(
        "The job cannot run here: memory, ranks, replicas or the engine do not fit the spec.",
        "Change what the message names; `POST /v1/jobs?dry_run=true` estimates without submitting.",
    ),
    "oom_rollout": _RETRYABLE(
        "A replica ran out of memory.",
        "Lower `resources.rollout_batch_size`, `sampling.max_new_tokens` or `DIRL_ROLLOUT_CACHE_SHARE`.",
    ),
    "oom_train": _RETRYABLE(
        "The learner ran out of memory.",
        "Lower `trainer.max_tokens_per_microbatch`, set `trainer.gradient_checkpointing`, or raise "
        "`resources.trainer_ranks`.",
    ),
    "rollout_unavailable": _UNAVAILABLE(
        "A rollout replica cannot be reached.",
        "Start it, and check `DIRL_ROLLOUT_ADDRESSES` and `GET /v1/system`.",
    ),
    "trainer_unavailable": _UNAVAILABLE(
        "No trainer can be reached.",
        "Start it, and check `DIRL_TRAINER_ADDRESSES` and `GET /v1/system`.",
    ),
    "verifier_unavailable": _UNAVAILABLE(
        "The reward service cannot be reached, or stopped before it answered.",
        "Start it, and check `DIRL_REWARD_ADDRESS` and `GET /v1/system`.",
    ),
    "queue_unavailable": _UNAVAILABLE(
        "Redis does not answer, or lost the streams of the attempt.",
        "Check the server at `DIRL_REDIS_URL`: running, reachable, memory left.",
    ),
    "reward_error_rate": _INTERNAL(
        "More responses of a step were unverifiable than `reward.max_unverifiable_rate`; the job is paused.",
        "Read the causes of the sample groups: add workers for overload, correct the data for invalid "
        "reference answers; then resume.",
    ),
    "weight_sync_timeout": _DEADLINE(
        "A replica did not load a weight version in time.",
        "Check the replica's log and the network between trainer and replica.",
    ),
    "weight_digest_mismatch": ErrorKind(
        "DATA_LOSS",
        500,
        "internal_error",
        True,
        "Weights arrived with another digest than they were sent with.",
        "If it happens again, check memory and network of the replica that the message names.",
    ),
    "parity_violation": _INTERNAL(
        "A replica computes other log-probabilities than the learner, beyond `rl.parity_tolerance`.",
        "Run the same release on both; check data type and memory of the replica.",
    ),
    "nan_loss": _INTERNAL(
        "The loss or a gradient is not finite, or the model predicts far worse than chance; the weights were not "
        "changed.",
        "Rewind to a checkpoint before the loss rose, with a lower learning rate.",
    ),
    "no_learning_signal": _INTERNAL(
        "Fewer groups than `rl.min_groups_per_step` have responses of differing rewards; the job is paused with a "
        "checkpoint of its last step.",
        "If the mean reward is as high as it can get, the job has learnt what its rewards can teach: export the "
        "checkpoint. Otherwise fork it with easier or harder prompts, or more `rl.num_generations`.",
    ),
    "worker_lost": _UNAVAILABLE(
        "A trainer, a learner or one of its ranks ended without a result.",
        "Nothing while attempts are left: they resume from the newest checkpoint. If it happens again, read the "
        "learner's log.",
    ),
    "deadline_exceeded": _DEADLINE(
        "An operation took longer than its deadline, or a phase of a learner made no progress for three budgets.",
        "Read `GET /v1/jobs/{id}/diagnosis` and the job's log; `DIRL_STALL_BUDGETS_S` sets the budgets.",
    ),
    "cancelled": ErrorKind(
        "CANCELLED",
        409,
        "conflict_error",
        False,
        "The operation was abandoned because the job or the client ended it.",
        "Nothing.",
    ),
    "internal": _INTERNAL(
        "The platform has a defect.",
        "Report it with the `request_id` and the traceback in the log of the service.",
    ),
}


class PlatformError(Exception):
    """A failure with a code of ERROR_KINDS and a message for the user."""

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
            raise ValueError(f"{code!r} is not an error code; the codes are {sorted(ERROR_KINDS)}")
        super().__init__(message if hint is None else f"{message} {hint}")
        self.code = code
        self.message = str(self)
        self.param = param
        """Path of the offending field, e.g. `rl.num_generations`, when there is one."""
        self.retry_after_s = retry_after_s
        """Seconds after which the caller should retry, where the service that refused knows it."""

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
    """One of several problems found together, with its path."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ProblemsError(PlatformError):
    """All problems of an input at once."""

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
