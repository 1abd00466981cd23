"""The Celery broker: how tasks are sent, and the wake-ups that start them early."""

from typing import Any, Final

import redis
from celery import Celery
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from services.common.telemetry.logs import get_logger

QUEUE: Final = "dirl"
DISPATCH: Final = "dirl.dispatch"
RECONCILE_ALL: Final = "dirl.reconcile_all"
RECONCILE: Final = "dirl.reconcile"
EXPORT: Final = "dirl.export"
DELIVER: Final = "dirl.deliver"
PRUNE: Final = "dirl.prune"
WATCH_SPACE: Final = "dirl.watch_space"

WAKEUP_MAX_AGE_S: Final = 5
"""A wake-up that waited so long is stale: the beat has sent the task meanwhile."""
EXPIRES_AT: Final = "dirl_expires_at"
"""Header of a message: Unix seconds of the broker's clock after which it is stale."""
_VISIBILITY_TIMEOUT_S: Final = 600
_CONNECT_S: Final = 2
_SOCKET_S: Final = 10
"""Longer than the worker's blocking reads."""
_SEND_SOCKET_S: Final = 2

_TRY_ONCE: Final = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.05,
    "interval_max": 0.1,
}

log = get_logger()


class _WakeupCelery(Celery):  # type: ignore[misc]  # Celery has no types
    """Messages expire by the broker's clock.

    Celery's own `expires` compares the clocks of two hosts: a worker whose clock is ahead would
    discard everything, without a sign.
    """

    broker_clock: redis.Redis

    def send_task(
        self, *args: Any, max_age_s: float = WAKEUP_MAX_AGE_S, **options: Any
    ) -> AsyncResult:
        """Send; `max_age_s` bounds how long the message may wait."""
        try:
            expires_at = broker_time(self.broker_clock) + max_age_s
        except redis.RedisError as error:
            raise OperationalError(str(error)) from error
        headers = {**(options.pop("headers", None) or {}), EXPIRES_AT: expires_at}
        return super().send_task(*args, headers=headers, **options)


def broker_time(client: redis.Redis) -> float:
    """Unix seconds by the clock of the broker's server."""
    seconds, microseconds = client.time()
    return float(seconds + microseconds / 1e6)


def make_celery(redis_url: str) -> Celery:
    """A Celery application on the broker; JSON messages, acknowledged after the task, results kept
    nowhere.
    """
    app = _WakeupCelery("dirl", broker=redis_url)
    app.broker_clock = redis.Redis.from_url(
        redis_url, socket_timeout=_SEND_SOCKET_S, socket_connect_timeout=_CONNECT_S
    )
    app.conf.update(
        task_default_queue=QUEUE,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        # A worker that dies leaves its message to another one: every action may be repeated.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # A worker reserves nothing that it cannot begin: behind a slow task it would be late.
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_TIMEOUT_S,
            "socket_connect_timeout": _CONNECT_S,
            # Without it a publish waits for ever for a server that is stopped, and kombu's checks of
            # a worker's connection never run.
            "socket_timeout": _SOCKET_S,
            "socket_keepalive": True,
        },
        timezone="UTC",
    )
    return app


class Wakeups:
    """Wakes the scheduler after a commit. A wake-up that is lost costs a second: the beat finds the
    work.
    """

    def __init__(self, redis_url: str) -> None:
        self._app = make_celery(redis_url)
        # A request must not wait for a broker that is down; kombu would try for seconds.
        self._app.conf.broker_transport_options.update(**_TRY_ONCE, socket_timeout=_SEND_SOCKET_S)

    def dispatch(self) -> None:
        """Jobs are waiting for services."""
        self._send(DISPATCH)

    def reconcile(self, job_id: str) -> None:
        """The job has something to be done, e.g. is to be stopped."""
        self._send(RECONCILE, job_id)

    def export(self, export_id: str) -> None:
        """The export is to be started."""
        self._send(EXPORT, export_id)

    def deliver(self, delivery_id: str) -> None:
        """A message to a webhook is due."""
        self._send(DELIVER, delivery_id)

    def _send(self, name: str, *args: Any) -> None:
        try:
            self._app.send_task(name, args=args, retry=False)
        except OperationalError as error:
            log.warning("wake-up lost", task=name, args=list(args), reason=str(error))
