"""`python -m services.trainer`: the supervisor of one trainer."""

from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging
from services.common.telemetry.tracing import configure_tracing
from services.trainer.service.server import serve
from services.trainer.service.settings import TrainerSettings


def main() -> None:
    """Entry point."""
    settings = read_settings(TrainerSettings)
    configure_logging("trainer", settings.log_level, settings.log_format)
    configure_tracing("trainer", settings.otlp_endpoint)
    serve(settings)


if __name__ == "__main__":
    main()
