"""Every environment variable of the trainer service."""

from pydantic import Field

from services.common.settings import CommonSettings, HostPort


class TrainerSettings(CommonSettings):
    """Settings of the supervisor; the learner gets what it needs in its request."""

    trainer_listen: HostPort = "127.0.0.1:50053"
    """Address of the trainer's gRPC server."""
    trainer_ranks_per_host: int | None = Field(None, gt=0)
    """Ranks of a learner on this host, usually one per GPU. Jobs with more ranks need worker hosts.
    Unset, all ranks run here.
    """
    trainer_rendezvous: HostPort = "127.0.0.1:29500"
    """Address where rank 0 on this host meets the ranks of worker hosts; they must reach it."""
    torch_threads: int | None = Field(None, gt=0)
    """Threads of one tensor operation in the learner. Unset, torch chooses."""
    trainer_stop_grace_s: float = Field(10.0, ge=0)
    """Seconds that a running learner has to write a checkpoint when the service stops."""


class WorkerHostSettings(CommonSettings):
    """Settings of a worker host, which contributes ranks to the learners of a trainer on another
    host.
    """

    trainer_head: HostPort = "127.0.0.1:50053"
    """gRPC address of the trainer."""
    trainer_worker_host_index: int = Field(0, ge=0)
    """Place of this host: 0 for the one whose ranks follow the trainer's own, 1 for the next."""
    trainer_head_lost_after_s: float = Field(30.0, gt=0)
    """Seconds without an answer of the trainer after which this host ends its ranks."""
