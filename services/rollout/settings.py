"""Environment of the rollout service."""

import socket
from typing import Literal

from pydantic import Field

from services.common.settings import CommonSettings, HostPort


class RolloutSettings(CommonSettings):
    """Every variable is DIRL_ and the field's name in capitals."""

    rollout_listen: HostPort = "127.0.0.1:50051"
    """Address of the replica's gRPC server."""
    rollout_name: str = Field(default_factory=socket.gethostname, min_length=1)
    """Name of the replica in logs and scored groups."""
    rollout_engine: Literal["torch", "lmdeploy"] = "torch"
    """Decoding engine; lmdeploy needs a CUDA device (docs/lmdeploy.md)."""
    rollout_cache_share: float = Field(0.8, gt=0, lt=1)
    """Share of the device memory left free by the weights that LMDeploy's cache takes."""
    rollout_batch_size: int = Field(32, gt=0)
    """Responses decoded at a time when the job's `resources.rollout_batch_size` is 0."""
    rollout_lease_s: float = Field(30.0, gt=0)
    """Seconds without renewal after which another replica takes over a prompt of this one."""
    torch_threads: int | None = Field(None, gt=0)
    """Threads of one tensor operation. Unset, torch chooses."""
