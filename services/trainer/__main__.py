"""`python -m services.trainer`: the supervisor of one trainer."""

from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging
from services.trainer.server import serve
from services.trainer.settings import TrainerSettings


def main() -> None:
    """Entry point."""
    settings = read_settings(TrainerSettings)
    configure_logging("trainer", settings.log_level, settings.log_format)
    serve(settings)


if __name__ == "__main__":
    main()
