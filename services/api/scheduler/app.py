"""The Celery application of worker and beat."""

import logging
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.schedules import schedule
from celery.signals import setup_logging, worker_ready, worker_shutdown

from services.api.adapters.broker import (
    DISPATCH,
    PRUNE,
    RECONCILE_ALL,
    WATCH_SPACE,
    make_celery,
)
from services.api.scheduler.metrics import SchedulerMetrics
from services.api.scheduler.tasks import register_tasks
from services.api.settings import ApiSettings
from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging, get_logger
from services.common.telemetry.metrics import serving_metrics
from services.common.telemetry.tracing import configure_tracing

_BEAT_S = 1.0
_SPACE_S = 5.0
_PRUNE_S = 60.0
# One line per task and second would bury everything else; failures are logged at a higher level.
# httpx names the whole address of a webhook, which is often a secret.
_STARTED_AT, _STARTED_MONOTONIC = datetime.now(UTC), time.monotonic()
_CHATTY = ("celery.worker.strategy", "celery.app.trace", "celery.utils.functional", "httpx")


def _steady_now() -> datetime:
    """The time of the start and the monotonic clock: a host's clock that is set back by an hour must
    not stop the beat for an hour.
    """
    return _STARTED_AT + timedelta(seconds=time.monotonic() - _STARTED_MONOTONIC)


def every(seconds: float) -> schedule:
    """Schedule of a regular task."""
    return schedule(timedelta(seconds=seconds), nowfun=_steady_now)


settings = read_settings(ApiSettings)
configure_tracing("scheduler", settings.otlp_endpoint)
app = make_celery(settings.redis_url)
# In memory: what is due every minute at least needs no file that remembers when it was last done.
app.conf.beat_scheduler = "celery.beat:Scheduler"
app.conf.beat_schedule = {
    "dispatch": {"task": DISPATCH, "schedule": every(_BEAT_S)},
    "reconcile": {"task": RECONCILE_ALL, "schedule": every(_BEAT_S)},
    "space": {"task": WATCH_SPACE, "schedule": every(_SPACE_S)},
    "prune": {"task": PRUNE, "schedule": every(_PRUNE_S), "options": {"max_age_s": _PRUNE_S}},
}
metrics = SchedulerMetrics()
register_tasks(app, settings, metrics)
_while_working = ExitStack()


def _configure_logging(**_: Any) -> None:
    configure_logging("scheduler", settings.log_level, settings.log_format)
    logging.getLogger("celery.beat").addFilter(
        lambda record: not str(record.msg).startswith("Scheduler: Sending due task")
    )
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _start_serving_metrics(**_: Any) -> None:
    _while_working.enter_context(serving_metrics(settings.metrics_listen, metrics.registry))
    get_logger().info("scheduler ready", broker=app.connection().as_uri())


def _stop_serving_metrics(**_: Any) -> None:
    _while_working.close()


setup_logging.connect(_configure_logging, weak=False)
worker_ready.connect(_start_serving_metrics, weak=False)
worker_shutdown.connect(_stop_serving_metrics, weak=False)
