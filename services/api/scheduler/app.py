"""The Celery application of worker and beat."""

import logging
from contextlib import ExitStack
from typing import Any

from celery.signals import setup_logging, worker_ready, worker_shutdown

from services.api.adapters.broker import (
    DISPATCH,
    PRUNE,
    RECONCILE_ALL,
    WAKEUP_EXPIRES_S,
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
_CHATTY = ("celery.worker.strategy", "celery.app.trace", "celery.utils.functional", "httpx")

settings = read_settings(ApiSettings)
configure_tracing("scheduler", settings.otlp_endpoint)
app = make_celery(settings.redis_url)
# In memory: what is due every minute at least needs no file that remembers when it was last done.
app.conf.beat_scheduler = "celery.beat:Scheduler"
app.conf.beat_schedule = {
    "dispatch": {"task": DISPATCH, "schedule": _BEAT_S, "options": {"expires": WAKEUP_EXPIRES_S}},
    "reconcile": {
        "task": RECONCILE_ALL,
        "schedule": _BEAT_S,
        "options": {"expires": WAKEUP_EXPIRES_S},
    },
    "space": {"task": WATCH_SPACE, "schedule": _SPACE_S, "options": {"expires": _SPACE_S}},
    "prune": {"task": PRUNE, "schedule": _PRUNE_S, "options": {"expires": _PRUNE_S}},
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
