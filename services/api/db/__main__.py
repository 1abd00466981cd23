"""`python -m services.api.db`: migrate the database of DIRL_DATABASE_URL."""

from services.api.db.migrate import migrate
from services.api.settings import ApiSettings
from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging, get_logger


def main() -> None:
    """Upgrade to head."""
    settings = read_settings(ApiSettings)
    configure_logging("migrate", settings.log_level, settings.log_format)
    migrate(settings.database_url)
    get_logger().info("database migrated")


if __name__ == "__main__":
    main()
