"""Every environment variable of the trainer service."""

from pydantic import Field

from services.common.settings import CommonSettings, HostPort


class TrainerSettings(CommonSettings):
    """Settings of the supervisor; the learner gets what it needs in its request."""

    trainer_listen: HostPort = "127.0.0.1:50053"
    trainer_ranks_per_host: int | None = Field(None, gt=0)
    """Ranks of a learner on this host, usually its GPUs; jobs with more of them need peers. None
    runs all here.
    """
    trainer_rendezvous: HostPort = "127.0.0.1:29500"
    """Where this host's rank 0 meets those of peers, by a name that they can reach."""
    torch_threads: int | None = Field(None, gt=0)
    """Threads of the learner's arithmetic; None is torch's own choice."""
    trainer_stop_grace_s: float = Field(10.0, ge=0)
    """Seconds a running learner has to write a checkpoint when the service stops."""


class WorkerHostSettings(CommonSettings):
    """Settings of a process that lends its host's ranks to the learners of a trainer on another
    host.
    """

    trainer_head: HostPort = "127.0.0.1:50053"
    """The trainer."""
    trainer_peer_index: int = Field(0, ge=0)
    """0 for the host that has the ranks after the trainer's own, and so on."""
    trainer_head_lost_after_s: float = Field(30.0, gt=0)
    """Its learner's ranks end when the trainer has been silent for so long."""
