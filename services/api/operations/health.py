"""`python -m services.api.operations.health PROCESS`: ends with status 0 when that process of the control
plane works.

For health checks inside a container. The API is asked at /healthz; scheduler and recorder, which
listen nowhere, sign in the database. The scheduler's sign is a task that beat sent and a worker
did, so it speaks for beat, too.
"""

import sys
from typing import Final

import httpx
from sqlalchemy.exc import SQLAlchemyError

from services.api.db.clock import utc_now
from services.api.db.database import Database
from services.api.db.heartbeats import LATE, last_beats
from services.api.settings import ApiSettings
from services.common.settings import read_settings

_SIGN: Final = {"scheduler": "scheduler", "beat": "scheduler", "recorder": "recorder"}
PROCESSES: Final = ("api", *_SIGN)
_TIMEOUT_S: Final = 3.0


def main() -> None:
    """Status 0, or 1 with the reason on standard error."""
    if len(sys.argv) != 2 or sys.argv[1] not in PROCESSES:
        sys.exit(f"usage: python -m services.api.operations.health {'|'.join(PROCESSES)}")
    settings = read_settings(ApiSettings)
    if sys.argv[1] == "api":
        url = f"http://127.0.0.1:{settings.api_listen.rpartition(':')[2]}/healthz"
        try:
            httpx.get(url, timeout=_TIMEOUT_S, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            sys.exit(f"{url}: {error}")
    else:
        name = _SIGN[sys.argv[1]]
        try:
            with Database(settings.database_url).begin() as session:
                beat = last_beats(session).get(name)
        except SQLAlchemyError as error:
            sys.exit(f"the database does not say when {name} was last seen: {error}")
        if beat is None or utc_now() - beat.seen_at > LATE:
            sys.exit(
                f"{name} was last seen: {'never' if beat is None else beat.seen_at.isoformat(timespec='seconds')}"
            )


if __name__ == "__main__":
    main()
