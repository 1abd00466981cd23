"""Environment of the rollout service."""

import socket
from typing import Literal

from pydantic import Field

from services.common.settings import CommonSettings, HostPort


class RolloutSettings(CommonSettings):
    """Every variable is DIRL_ and the field's name in capitals."""

    rollout_listen: HostPort = "127.0.0.1:50051"
    rollout_name: str = Field(default_factory=socket.gethostname, min_length=1)
    """Name of the replica in logs and scored groups."""
    rollout_engine: Literal["torch", "lmdeploy"] = "torch"
    """What decodes; lmdeploy needs a CUDA device (docs/lmdeploy.md)."""
    rollout_cache_share: float = Field(0.8, gt=0, lt=1)
    """Of the device memory that the weights leave free, the share that LMDeploy's cache takes."""
    rollout_batch_size: int = Field(32, gt=0)
    """Responses decoded side by side when the job leaves the choice to the replica."""
    rollout_lease_s: float = Field(30.0, gt=0)
    """Seconds after which another replica takes over a prompt that this one no longer renews."""
    torch_threads: int | None = Field(None, gt=0)
    """Threads of one tensor operation; None is torch's own choice."""
