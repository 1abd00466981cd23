"""Every environment variable of the reward process."""

import os
from typing import Literal

from pydantic import Field

from services.common.settings import CommonSettings, HostPort, Names
from services.reward.endpoints import Endpoint

SandboxMode = Literal["auto", "bubblewrap", "process"]


class RewardSettings(CommonSettings):
    """Read with services.common.settings.read_settings; each name is prefixed with DIRL_."""

    reward_listen: HostPort = "127.0.0.1:50052"
    """Address of the reward service's gRPC server."""
    reward_workers: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=1024)
    """Worker processes. By default one per core that this process may use."""
    reward_timeout_s: float = Field(3.0, gt=0, le=60)
    """Wall time of one comparison when the request sets none."""
    reward_worker_memory_mb: int = Field(1024, ge=256)
    """Address space of one worker process."""
    reward_items_per_worker: int = Field(5000, ge=1)
    """Comparisons after which a worker process is replaced."""
    reward_queue_size: int = Field(16_384, ge=1)
    """Comparisons that may wait. Beyond it the service answers `busy`."""
    reward_cache_size: int = Field(65_536, ge=1)
    """Verdicts in the cache."""
    reward_endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    """Endpoints that graders may call, as a JSON object: by name `url`, `api_key`, `secret` (signature)
    and `max_concurrency`.
    """
    reward_python_packages: Names = ()
    """Packages that Python graders may declare, separated by commas."""
    reward_drain_s: float = Field(2.5, ge=0, le=3)
    """Seconds that a shutdown waits for comparisons in flight."""
    reward_sandbox: SandboxMode = "auto"
    """Isolation of untrusted code: `bubblewrap` refuses to start where it does not work, `auto` then
    uses `process` and says so. docs/security.md says what each covers.
    """
