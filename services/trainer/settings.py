"""Every environment variable of the trainer service."""

from pydantic import Field

from services.common.settings import CommonSettings, HostPort


class TrainerSettings(CommonSettings):
    """Settings of the supervisor; the learner gets what it needs in its request."""

    trainer_listen: HostPort = "127.0.0.1:50053"
    torch_threads: int | None = Field(None, gt=0)
    """Threads of the learner's arithmetic; None is torch's own choice."""
    trainer_stop_grace_s: float = Field(10.0, ge=0)
    """Seconds a running learner has to write a checkpoint when the service stops."""
