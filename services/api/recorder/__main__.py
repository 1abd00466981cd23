"""`python -m services.api.recorder`: writes the events of learners into the database."""

import signal
import threading
from types import FrameType

from services.api.adapters.fleet import Fleet
from services.api.db.database import Database
from services.api.db.migrate import wait_for_schema
from services.api.recorder.catch_up import JournalReader
from services.api.recorder.consumer import Recorder
from services.api.settings import ApiSettings
from services.common.settings import read_settings
from services.common.streams import connect
from services.common.telemetry.logs import configure_logging, get_logger
from services.common.telemetry.metrics import serving_metrics
from services.common.telemetry.tracing import configure_tracing

log = get_logger()


def main() -> None:
    """Record until SIGTERM or SIGINT."""
    settings = read_settings(ApiSettings)
    configure_logging("recorder", settings.log_level, settings.log_format)
    configure_tracing("recorder", settings.otlp_endpoint)
    wait_for_schema(settings.database_url)
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    database = Database(settings.database_url)
    fleet = Fleet(settings.trainer_addresses, settings.rollout_addresses, settings.reward_address)
    client = connect(settings.redis_url)
    log.info("recorder ready", redis=settings.redis_url.rpartition("@")[2])
    recorder = Recorder(database, JournalReader(database, fleet, settings.data_dir), client)
    with serving_metrics(settings.metrics_listen, recorder.metrics.registry):
        recorder.run(ended)
    fleet.close()
    client.close()
    database.dispose()
    log.info("recorder stopped")


if __name__ == "__main__":
    main()
