"""`python -m services.api.scheduler worker|beat`: the Celery worker, or the clock that gives it its regular tasks."""

import sys
from typing import Final

from services.api.db.migrate import wait_for_schema
from services.api.scheduler.app import app, settings

_OPTIONS: Final = {
    "worker": (
        "--pool=threads",
        "--concurrency=2",
        "--without-gossip",
        "--without-mingle",
        "--loglevel=info",
    ),
    "beat": ("--pidfile=", "--loglevel=info"),
}


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    if len(sys.argv) != 2 or sys.argv[1] not in _OPTIONS:
        sys.exit(f"usage: python -m services.api.scheduler {'|'.join(_OPTIONS)}")
    process = sys.argv[1]
    if process == "worker":
        wait_for_schema(settings.database_url)
    app.start([process, *_OPTIONS[process]])


if __name__ == "__main__":
    main()
