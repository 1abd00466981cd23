"""The task boundary: Celery's messages to the scheduler's actions. Arguments are ids.

The beat sends again what a task could not finish, so an error is logged and the task counts as
failed.
"""

from collections.abc import Callable
from threading import Lock
from typing import Any, Final

import redis
from celery import Celery, Task

from services.api.adapters.broker import (
    DELIVER,
    DISPATCH,
    EXPIRES_AT,
    EXPORT,
    PRUNE,
    RECONCILE,
    RECONCILE_ALL,
    WATCH_SPACE,
    broker_time,
)
from services.api.db.locks import StaleTokenError
from services.api.scheduler.context import SchedulerContext, open_context
from services.api.scheduler.dispatch import dispatch
from services.api.scheduler.exports import advance_export, open_exports
from services.api.scheduler.metrics import SchedulerMetrics
from services.api.scheduler.prune import prune
from services.api.scheduler.reconcile import active_jobs, reconcile
from services.api.scheduler.spaces import watch_space
from services.api.scheduler.webhooks import deliver, open_deliveries
from services.api.settings import ApiSettings
from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger

log = get_logger()


def reconcile_all(context: SchedulerContext) -> None:
    """One task for every job, export and message that is due, so that a slow one does
    not delay the others.
    """
    for job_id in active_jobs(context):
        context.wakeups.reconcile(job_id)
    for export_id in open_exports(context):
        context.wakeups.export(export_id)
    for delivery_id in open_deliveries(context):
        context.wakeups.deliver(delivery_id)


_ACTIONS: Final[dict[str, Callable[..., Any]]] = {
    DISPATCH: dispatch,
    RECONCILE_ALL: reconcile_all,
    RECONCILE: reconcile,
    EXPORT: advance_export,
    DELIVER: deliver,
    PRUNE: prune,
    WATCH_SPACE: watch_space,
}


class _Contexts:
    """The context of this worker process, opened by its first task: after the fork, once for all
    threads.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._context: SchedulerContext | None = None

    def get(self) -> SchedulerContext:
        with self._lock:
            if self._context is None:
                self._context = open_context(self._settings)
            return self._context


def register_tasks(app: Celery, settings: ApiSettings, metrics: SchedulerMetrics) -> None:
    """Register every action under its name."""
    contexts = _Contexts(settings)
    for name, action in _ACTIONS.items():
        app.task(name=name, bind=True)(_make_task(name, action, contexts, metrics))


def _make_task(
    name: str, action: Callable[..., Any], contexts: _Contexts, metrics: SchedulerMetrics
) -> Callable[..., None]:
    short = name.rpartition(".")[2]

    def run(task: Task, *ids: str) -> None:
        context = contexts.get()
        try:
            # Without the header: a message of an older release.
            expires_at = task.request.get(EXPIRES_AT)
            if expires_at is not None and broker_time(context.redis) > expires_at:
                log.info("stale wake-up discarded", task=name, ids=ids)
                return
            with metrics.observe(short):
                action(context, *ids)
        except StaleTokenError as error:
            log.warning("result dropped", task=name, reason=str(error))
        except redis.RedisError as error:
            log.warning("task put off", task=name, ids=ids, reason=str(error))
        except PlatformError as error:
            log.warning("task put off", task=name, ids=ids, code=error.code, reason=error.message)

    run.__name__ = short
    return run
