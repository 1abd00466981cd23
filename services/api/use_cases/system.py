"""State of every process and server of the installation."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import redis
from psutil import Process
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from services.api.adapters.fleet import reads_same_spec
from services.api.db.clock import CLOCK, utc_now
from services.api.db.heartbeats import LATE, last_beats
from services.api.db.job_tables import Heartbeat, Job, ServiceLease
from services.api.domain.access import Caller
from services.api.schemas.system import (
    DatabaseView,
    Readiness,
    ServiceState,
    ServiceView,
    SystemView,
    VerifierPoolView,
)
from services.api.use_cases.control_plane import ControlPlane
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import reward_pb2, rollout_pb2, trainer_pb2
from services.common.telemetry.last_error import last_error

_FOREIGN: Final = (
    "Of a release with another job spec: jobs wait until it, or the scheduler, is replaced."
)
_WITHHELD: Final = (
    "Only a key with the scope admin reads errors of services: they may hold data of any project."
)
_DATABASE_NUMBERS: Final = text(
    "SELECT current_setting('server_version'), pg_database_size(current_database()),"
    " (SELECT sum(numbackends) FROM pg_stat_database), current_setting('max_connections')::int"
)


@dataclass(frozen=True)
class _Responded:
    """Status of a service, and by how many seconds its clock is ahead of the database's."""

    status: Any
    skew_s: float | None


def _with_skew(ask: Callable[[str], Any]) -> Callable[[str], _Responded]:
    """Compare the clocks when the response arrives: another service may take seconds."""

    def ask_and_compare(address: str) -> _Responded:
        status = ask(address)
        # A service of an older release does not say its time.
        skew_s = status.unix_time_s - CLOCK.now() if status.unix_time_s else None
        return _Responded(status, skew_s)

    return ask_and_compare


def read_readiness(plane: ControlPlane) -> Readiness:
    """Whether requests can be served: database and Redis answer."""
    states = {"postgres": plane.database.is_up(), "redis": is_redis_up(plane)}
    return Readiness(
        ready=all(states.values()),
        dependencies={name: to_service_state(up) for name, up in states.items()},
    )


def to_service_state(up: bool) -> ServiceState:
    return "up" if up else "down"


def is_redis_up(plane: ControlPlane) -> bool:
    try:
        return bool(plane.redis.ping())
    except redis.RedisError:
        return False


def read_system(plane: ControlPlane, version: str, caller: Caller) -> SystemView:
    """State of every service: whether it is up, its version, its memory, its loaded weights.

    Without the scope admin, errors are withheld, and of jobs only those of the caller's project are
    named.
    """
    fleet = plane.fleet
    postgres, beats, leases = _describe_database(plane)
    fields = {
        "version": version,
        "rss_bytes": Process().memory_info().rss,
        "clock_skew_s": CLOCK.skew_s(),
    }
    if (error := last_error()) is not None:
        fields |= {"error": error.message, "error_at": error.at}
    services = [
        ServiceView(kind="api", address=None, state="up", **fields),
        postgres,
        _describe_redis(plane),
        *(_describe_process(name, beats) for name in ("scheduler", "recorder")),
        *_describe_services(
            "reward",
            fleet.ask_all(_with_skew(fleet.reward_status), (fleet.reward,)),
            leases,
            _describe_reward,
        ),
        *_describe_services(
            "trainer",
            fleet.ask_all(_with_skew(fleet.trainer_status), fleet.trainers),
            leases,
            _describe_trainer,
        ),
        *_describe_services(
            "rollout",
            fleet.ask_all(_with_skew(fleet.rollout_status), fleet.replicas),
            leases,
            _describe_replica,
        ),
    ]
    if not caller.is_admin:
        named = {job_id for service in services for job_id in (service.job_id, service.leased_to)}
        own = _find_own_jobs(plane, caller, named - {None})
        services = [_withhold(service, own) for service in services]
    return SystemView(
        version=version,
        healthy=all(service.state == "up" for service in services),
        services=services,
    )


def _find_own_jobs(
    plane: ControlPlane, caller: Caller, named: Collection[str | None]
) -> Collection[str]:
    """Return the jobs of the caller's project; none while the database is down."""
    try:
        with plane.database.begin() as session:
            return session.scalars(
                select(Job.id).where(Job.id.in_(named), Job.project == caller.project)
            ).all()
    except OperationalError:
        return ()


def _withhold(service: ServiceView, own: Collection[str]) -> ServiceView:
    """Return the view without what may come from another project."""
    is_own = service.job_id is None or service.job_id in own
    return service.model_copy(
        update={
            "error": _WITHHELD if service.error else None,
            "job_id": service.job_id if is_own else None,
            "leased_to": service.leased_to if service.leased_to in own else None,
            "weight_version": service.weight_version if is_own else None,
            "weight_digest": service.weight_digest if is_own else None,
        }
    )


def _describe_database(
    plane: ControlPlane,
) -> tuple[ServiceView, Mapping[str, Heartbeat], Mapping[str, str]]:
    """PostgreSQL, with the heartbeats and leases in it; neither while it is down."""
    try:
        with plane.database.begin() as session:
            version, *numbers = session.execute(_DATABASE_NUMBERS).one()
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
    fields = DatabaseView(**dict(zip(DatabaseView.model_fields, numbers, strict=True)))
    return (
        ServiceView(kind="postgres", address=None, state="up", version=version, database=fields),
        beats,
        leases,
    )


def _describe_redis(plane: ControlPlane) -> ServiceView:
    try:
        fields: Mapping[str, Any] = plane.redis.info()
        seconds, microseconds = plane.redis.time()
    except redis.RedisError as error:
        return ServiceView(kind="redis", address=None, state="down", error=str(error))
    problems = [
        f"{name} failed; see the server's log and disk."
        for name in ("rdb_last_bgsave_status", "aof_last_write_status")
        if fields.get(name, "ok") != "ok"
    ]
    if fields["maxmemory"] > 0 and str(fields["maxmemory_policy"]).startswith("allkeys"):
        problems.append(
            f"maxmemory-policy is {fields['maxmemory_policy']}: it evicts the streams of running jobs. Set noeviction."
        )
    return ServiceView(
        kind="redis",
        address=None,
        state="up",
        version=f"Valkey {fields['valkey_version']}"
        if "valkey_version" in fields
        else fields["redis_version"],
        rss_bytes=fields["used_memory_rss"],
        clock_skew_s=seconds + microseconds / 1e6 - CLOCK.now(),
        error=" ".join(problems) or None,
    )


def _describe_process(name: str, beats: Mapping[str, Heartbeat]) -> ServiceView:
    beat = beats.get(name)
    if beat is None:
        return ServiceView(
            kind=name, address=None, state="down", error="No heartbeat in the database."
        )
    late = utc_now() - beat.seen_at > LATE
    seen = f"Last seen {beat.seen_at.isoformat(timespec='seconds')}. " if late else ""
    return ServiceView(
        kind=name,
        address=None,
        state=to_service_state(not late),
        version=beat.version,
        rss_bytes=beat.rss_bytes,
        clock_skew_s=beat.clock_skew_s,
        error=f"{seen}{beat.error or ''}".strip() or None,
        error_at=beat.error_at,
    )


def _describe_services(
    kind: str,
    responses: Mapping[str, _Responded | PlatformError],
    leases: Mapping[str, str],
    details: Callable[[Any], dict[str, Any]],
) -> list[ServiceView]:
    return [
        ServiceView(
            kind=kind,
            address=address,
            leased_to=leases.get(address),
            **(
                {"state": "down", "error": response.message}
                if isinstance(response, PlatformError)
                else {"state": "up", "clock_skew_s": response.skew_s, **details(response.status)}
            ),
        )
        for address, response in responses.items()
    ]


def _describe_reward(status: reward_pb2.GetRewardStatusResponse) -> dict[str, Any]:
    pool = VerifierPoolView(
        workers=status.workers,
        max_workers=status.max_workers,
        waiting=status.waiting,
        kills=status.kills,
        sandbox=status.sandbox,
        sandbox_reason=status.sandbox_reason or None,
    )
    return {
        "version": status.version,
        "rss_bytes": status.rss_bytes,
        "pool": pool,
        "error": status.last_error or None,
        "error_at": status.last_error_at or None,
    }


def _describe_trainer(status: trainer_pb2.GetTrainerStatusResponse) -> dict[str, Any]:
    return {
        "activity": status.state,
        "job_id": status.job_id if status.state == "running" else None,
        "version": status.version,
        "rss_bytes": status.rss_bytes,
        "error": (status.error_message or None) if reads_same_spec(status) else _FOREIGN,
    }


def _describe_replica(status: rollout_pb2.GetRolloutStatusResponse) -> dict[str, Any]:
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
