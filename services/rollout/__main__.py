"""Run one rollout replica: `python -m services.rollout`."""

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
    """Start the replica."""
    settings = read_settings(RolloutSettings)
    configure_logging("rollout", settings.log_level, settings.log_format)
    configure_tracing("rollout", settings.otlp_endpoint)
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    if settings.rollout_engine == "lmdeploy":
        # Fail at the start, before a job waits for this replica.
        try:
            require_lmdeploy()
        except PlatformError as error:
            sys.exit(str(error))
    serve(settings)


if __name__ == "__main__":
    main()
