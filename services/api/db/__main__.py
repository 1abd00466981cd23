"""`python -m services.api.db [upgrade | downgrade REVISION]`: the schema of the database of DIRL_DATABASE_URL."""

import sys

from services.api.db.migrate import downgrade, migrate, wait_for_database
from services.api.settings import ApiSettings
from services.common.errors import PlatformError
from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging, get_logger


def main(arguments: list[str]) -> None:
    """Upgrade to the newest schema, or go back to a revision; waits for the database."""
    settings = read_settings(ApiSettings)
    configure_logging("migrate", settings.log_level, settings.log_format)
    match arguments:
        case [] | ["upgrade"]:
            wait_for_database(settings.database_url)
            migrate(settings.database_url)
        case ["downgrade", revision]:
            wait_for_database(settings.database_url)
            downgrade(settings.database_url, revision)
        case _:
            sys.exit("usage: python -m services.api.db [upgrade | downgrade REVISION]")
    get_logger().info("database migrated")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PlatformError as refusal:
        sys.exit(str(refusal))
