"""`python -m services.rollout`: one replica."""

import torch

from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging
from services.rollout.server import serve
from services.rollout.settings import RolloutSettings


def main() -> None:
    """Entry point."""
    settings = read_settings(RolloutSettings)
    configure_logging("rollout", settings.log_level, settings.log_format)
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    serve(settings)


if __name__ == "__main__":
    main()
