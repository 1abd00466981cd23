"""`python -m services.rollout`: one replica."""

import sys

import torch

from services.common.errors import PlatformError
from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging
from services.common.telemetry.tracing import configure_tracing
from services.rollout.engines.lmdeploy_check import require_lmdeploy
from services.rollout.server import serve
from services.rollout.settings import RolloutSettings


def main() -> None:
    """Entry point."""
    settings = read_settings(RolloutSettings)
    configure_logging("rollout", settings.log_level, settings.log_format)
    configure_tracing("rollout", settings.otlp_endpoint)
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    if settings.rollout_engine == "lmdeploy":
        _require_lmdeploy()
    serve(settings)


def _require_lmdeploy() -> None:
    """End the process where LMDeploy cannot run, before anything waits for this replica."""
    try:
        require_lmdeploy()
    except PlatformError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
