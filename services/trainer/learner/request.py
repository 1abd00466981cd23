"""The request of a learner and the result it writes when it ends; both are files in the job's
directory.
"""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, TypeAdapter

from services.common.attempt_result import AttemptResult
from services.common.checkpoint.store import write_file_durably
from services.common.diffusion.config import Frozen
from services.common.job_spec import JobSpec

RANK_VARIABLE: Final = "DIRL_LEARNER_RANK"
"""Environment variable by which a learner's process knows its rank; rank 0 where it is not set."""

_RESULT: Final = TypeAdapter(AttemptResult)


class LearnerRequest(Frozen):
    """StartJobRequest of the trainer service, with what the service's own settings add.

    The spec is parsed once per process: by the trainer service when it makes the request, and by
    each learner process when it reads the file.
    """

    job_id: str = Field(min_length=1)
    attempt: int = Field(ge=1)
    spec: JobSpec
    model_path: Path
    """Directory of the initial model."""
    files: dict[str, Path]
    """Paths of the spec's files, by the name the spec gives them."""
    job_dir: Path
    rollout_addresses: tuple[str, ...]
    """host:port of each leased replica."""
    prompts_stream: str
    groups_stream: str
    steps_recorded: int = Field(0, ge=0)
    """Optimizer steps of earlier attempts that the control plane knows of."""
    redis_url: str
    object_store_url: str | None = None
    """s3://bucket/prefix, or None."""
    torch_threads: int | None
    """None is torch's own choice."""
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["json", "console"]
    ranks_per_host: int | None = None
    """Ranks that one host runs; None runs all of them on the trainer's own."""
    rendezvous_address: str | None = None
    """host:port of rank 0, for ranks on several hosts."""
    supervisor_pid: int
    """Process that the learner must not outlive."""

    @property
    def ranks(self) -> int:
        """Number of processes that train together."""
        return self.spec.resources.trainer_ranks

    def ranks_of_host(self, host: int) -> range:
        """Ranks that run on a host; host 0 is the trainer's own, the others are worker hosts
        (services.trainer.service.worker_host).
        """
        each = self.ranks_per_host or self.ranks
        return range(min(host * each, self.ranks), min((host + 1) * each, self.ranks))

    @property
    def rendezvous(self) -> str:
        """Where the attempt's ranks find each other, as torch.distributed names it."""
        if self.ranks_per_host is not None and self.ranks > self.ranks_per_host:
            return f"tcp://{self.rendezvous_address}"
        return f"file://{request_path(self.job_dir, self.attempt).with_suffix('.ranks').absolute()}"

    @property
    def checkpoints(self) -> Path:
        """Directory of the job's checkpoints."""
        return self.job_dir / "checkpoints"

    def save(self) -> Path:
        """Write the request into the job's directory, readable by the owner alone: the Redis URL may hold a
        password.
        """
        path = request_path(self.job_dir, self.attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The mode is set before the content is there.
        path.touch(mode=0o600)
        path.write_text(self.model_dump_json(indent=2), encoding="utf-8")
        return path


def request_path(job_dir: Path, attempt: int) -> Path:
    """File of an attempt's request."""
    return job_dir / "requests" / f"attempt-{attempt:04d}.json"


def result_path(job_dir: Path, attempt: int) -> Path:
    """File of an attempt's result."""
    return job_dir / "requests" / f"attempt-{attempt:04d}.result.json"


def save_result(job_dir: Path, attempt: int, result: AttemptResult) -> None:
    """Write the result of an attempt atomically; raises OSError."""
    write_file_durably(result_path(job_dir, attempt), _RESULT.dump_json(result, indent=2))


def read_result(job_dir: Path, attempt: int) -> AttemptResult | None:
    """Read the result of an attempt; None when the learner wrote none."""
    path = result_path(job_dir, attempt)
    return _RESULT.validate_json(path.read_bytes()) if path.exists() else None
