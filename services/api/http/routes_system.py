"""/healthz, /readyz, /v1/system, /metrics: how the installation is"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

import redis
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from psutil import Process
from pydantic import BaseModel, Field
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from services.api.db.base import utc_now
from services.api.db.heartbeats import LATE, last_beats
from services.api.db.job_tables import Heartbeat, ServiceLease
from services.api.fleet import reads_same_spec
from services.api.http.resources import Res, Resources
from services.api.http.views import unix, unix_or_none
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import reward_pb2, rollout_pb2, trainer_pb2
from services.common.telemetry.last_error import last_error

router = APIRouter(tags=["system"])

_UNAVAILABLE: Final = 503
_FOREIGN: Final = (
    "Of a release with another job spec: jobs wait until it, or the scheduler, is replaced."
)
_DATABASE_FACTS: Final = text(
    "SELECT current_setting('server_version'), pg_database_size(current_database()),"
    " (SELECT sum(numbackends) FROM pg_stat_database), current_setting('max_connections')::int"
)
ServiceState = Literal["up", "down"]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """What the API itself cannot do without."""

    ready: bool
    dependencies: dict[str, ServiceState]


class VerifierPoolView(BaseModel):
    """The processes that compare answers."""

    workers: int
    """Live ones."""
    max_workers: int
    waiting: int
    """Comparisons that no worker has begun."""
    kills: int
    """Workers killed since the service's start, for whatever reason."""


class DatabaseView(BaseModel):
    """What PostgreSQL tells of itself; its memory is not among it."""

    size_bytes: int
    """The platform's database on disk, indexes included."""
    connections: int
    """To any database of the server."""
    max_connections: int


class ServiceView(BaseModel):
    """One process or server of the installation."""

    object: Literal["service"] = "service"
    kind: str
    """api | postgres | redis | scheduler | recorder | reward | trainer | rollout"""
    address: str | None
    state: ServiceState
    activity: str | None = None
    """What a trainer or replica says that it is doing."""
    job_id: str | None = None
    """Job that it works for, by its own word."""
    leased_to: str | None = None
    """Job that it belongs to, by the scheduler's."""
    version: str | None = None
    weight_version: Annotated[
        int | None, Field(description="Loaded weights of a replica; null before the first.")
    ] = None
    weight_digest: str | None = None
    pool: Annotated[VerifierPoolView | None, Field(description="Of the reward service.")] = None
    database: Annotated[DatabaseView | None, Field(description="Of PostgreSQL.")] = None
    rss_bytes: int | None = None
    error: str | None = None
    """Why it is down, or what went wrong last."""
    error_at: int | None = None
    """Unix seconds, where it is known when that was."""


class SystemView(BaseModel):
    """The whole installation."""

    object: Literal["system"] = "system"
    version: str
    healthy: bool
    """Whether every service is up."""
    services: list[ServiceView]


@router.get("/healthz")
def healthz() -> Alive:
    """Whether the process lives."""
    return Alive()


@router.get("/readyz", responses={_UNAVAILABLE: {"model": Readiness}})
def readyz(resources: Res, response: Response) -> Readiness:
    """Whether requests can be served; 503 when the database or Redis does not answer."""
    states = {"postgres": resources.database.is_up(), "redis": _redis_is_up(resources)}
    ready = all(states.values())
    if not ready:
        response.status_code = _UNAVAILABLE
    return Readiness(ready=ready, dependencies={name: _state(up) for name, up in states.items()})


def _state(up: bool) -> ServiceState:
    return "up" if up else "down"


def _redis_is_up(resources: Resources) -> bool:
    try:
        return bool(resources.redis.ping())
    except redis.RedisError:
        return False


@router.get("/v1/system")
def get_system(resources: Res) -> SystemView:
    """Every service: whether it is up, its version, its memory, the weights it has loaded."""
    fleet = resources.fleet
    postgres, beats, leases = _database(resources)
    services = [
        _api(resources),
        postgres,
        _redis(resources),
        *(_process(name, beats) for name in ("scheduler", "recorder")),
        *_asked("reward", fleet.ask_all(fleet.reward_status, (fleet.reward,)), leases, _reward),
        *_asked("trainer", fleet.ask_all(fleet.trainer_status, fleet.trainers), leases, _trainer),
        *_asked("rollout", fleet.ask_all(fleet.rollout_status, fleet.replicas), leases, _replica),
    ]
    return SystemView(
        version=resources.version,
        healthy=all(service.state == "up" for service in services),
        services=services,
    )


def _api(resources: Resources) -> ServiceView:
    facts = {"version": resources.version, "rss_bytes": Process().memory_info().rss}
    if (error := last_error()) is not None:
        facts |= {"error": error.message, "error_at": unix(error.at)}
    return ServiceView(kind="api", address=None, state="up", **facts)


def _database(
    resources: Resources,
) -> tuple[ServiceView, Mapping[str, Heartbeat], Mapping[str, str]]:
    """PostgreSQL, and what it knows of the others: their signs of life and leases; nothing while it
    is away.
    """
    try:
        with resources.database.begin() as session:
            version, *numbers = session.execute(_DATABASE_FACTS).one()
            beats = last_beats(session)
            leases = {
                lease.address: lease.job_id for lease in session.scalars(select(ServiceLease))
            }
    except OperationalError as error:
        return (
            ServiceView(kind="postgres", address=None, state="down", error=str(error.orig)),
            {},
            {},
        )
    facts = DatabaseView(**dict(zip(DatabaseView.model_fields, numbers, strict=True)))
    return (
        ServiceView(kind="postgres", address=None, state="up", version=version, database=facts),
        beats,
        leases,
    )


def _redis(resources: Resources) -> ServiceView:
    try:
        facts: Mapping[str, Any] = resources.redis.info()
    except redis.RedisError as error:
        return ServiceView(kind="redis", address=None, state="down", error=str(error))
    return ServiceView(
        kind="redis",
        address=None,
        state="up",
        version=f"Valkey {facts['valkey_version']}"
        if "valkey_version" in facts
        else facts["redis_version"],
        rss_bytes=facts["used_memory_rss"],
        error=_failed_writes(facts),
    )


def _failed_writes(facts: Mapping[str, Any]) -> str | None:
    """Which of the server's last attempts to write to its disk failed."""
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status")
        if facts.get(name, "ok") != "ok"
    ]
    return f"{', '.join(failed)}: failed; see the server's log and disk" if failed else None


def _process(name: str, beats: Mapping[str, Heartbeat]) -> ServiceView:
    beat = beats.get(name)
    if beat is None:
        return ServiceView(
            kind=name, address=None, state="down", error="No sign of life in the database."
        )
    late = utc_now() - beat.seen_at > LATE
    seen = f"Last seen {beat.seen_at.isoformat(timespec='seconds')}. " if late else ""
    return ServiceView(
        kind=name,
        address=None,
        state=_state(not late),
        version=beat.version,
        rss_bytes=beat.rss_bytes,
        error=f"{seen}{beat.error or ''}".strip() or None,
        error_at=unix_or_none(beat.error_at),
    )


def _asked(
    kind: str,
    answers: Mapping[str, Any],
    leases: Mapping[str, str],
    details: Callable[[Any], dict[str, Any]],
) -> list[ServiceView]:
    return [
        ServiceView(
            kind=kind,
            address=address,
            leased_to=leases.get(address),
            **(
                {"state": "down", "error": answer.message}
                if isinstance(answer, PlatformError)
                else {"state": "up", **details(answer)}
            ),
        )
        for address, answer in answers.items()
    ]


def _reward(status: reward_pb2.GetRewardStatusResponse) -> dict[str, Any]:
    pool = VerifierPoolView(
        workers=status.workers,
        max_workers=status.max_workers,
        waiting=status.waiting,
        kills=status.kills,
    )
    return {
        "version": status.version,
        "rss_bytes": status.rss_bytes,
        "pool": pool,
        "error": status.last_error or None,
        "error_at": status.last_error_at or None,
    }


def _trainer(status: trainer_pb2.GetTrainerStatusResponse) -> dict[str, Any]:
    return {
        "activity": status.state,
        "job_id": status.job_id if status.state == "running" else None,
        "version": status.version,
        "rss_bytes": status.rss_bytes,
        "error": (status.error_message or None) if reads_same_spec(status) else _FOREIGN,
    }


def _replica(status: rollout_pb2.GetRolloutStatusResponse) -> dict[str, Any]:
    loaded = status.weight_version >= 0 and status.job_id != ""
    return {
        "activity": status.state,
        "job_id": status.job_id or None,
        "version": status.version,
        "weight_version": status.weight_version if loaded else None,
        "weight_digest": status.weight_digest if loaded else None,
        "rss_bytes": status.rss_bytes,
        "error": status.last_error or None,
    }


@router.get("/metrics", response_class=PlainTextResponse)
def prometheus_metrics(resources: Res) -> Response:
    """Prometheus text format."""
    return Response(generate_latest(resources.registry), media_type=CONTENT_TYPE_LATEST)
