"""The installation: its processes and its queues."""

from typing import Annotated, Literal

from pydantic import Field

from services.api.schemas.base import UnixSeconds, View

ServiceState = Literal["up", "down"]


class Alive(View):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(View):
    """Whether the services that the API depends on are up."""

    ready: bool
    dependencies: dict[str, ServiceState]


class VerifierPoolView(View):
    """The worker processes of the verifier."""

    workers: int
    """Live workers."""
    max_workers: int
    waiting: int
    """Comparisons in the queue."""
    kills: int
    """Workers killed since the service's start, for whatever reason."""
    sandbox: str
    """Isolation of untrusted code: bubblewrap | process."""
    sandbox_reason: str | None
    """Why the isolation is not bubblewrap."""


class DatabaseView(View):
    """Numbers that PostgreSQL reports of itself; its memory is not among them."""

    size_bytes: int
    """The platform's database on disk, indexes included."""
    connections: int
    """To any database of the server."""
    max_connections: int


class ServiceView(View):
    """One process or server of the installation."""

    object: Literal["service"] = "service"
    kind: str
    """api | postgres | redis | scheduler | recorder | reward | trainer | rollout"""
    address: str | None
    state: ServiceState
    activity: str | None = None
    """Current activity of a trainer or replica, as reported by itself."""
    job_id: str | None = None
    """Job that it works for, as reported by itself."""
    leased_to: str | None = None
    """Job that it is leased to, by the scheduler's table."""
    version: str | None = None
    weight_version: Annotated[
        int | None, Field(description="Loaded weights of a replica; null before the first.")
    ] = None
    weight_digest: str | None = None
    pool: Annotated[VerifierPoolView | None, Field(description="Of the reward service.")] = None
    database: Annotated[DatabaseView | None, Field(description="Of PostgreSQL.")] = None
    rss_bytes: int | None = None
    clock_skew_s: float | None = None
    """Seconds by which the clock of its host is ahead of the database's, whose time counts; null where it
    is not known.
    """
    error: str | None = None
    """Why it is down, or what went wrong last."""
    error_at: UnixSeconds | None = None
    """Unix seconds, where it is known when that was."""


class SystemView(View):
    """The whole installation."""

    object: Literal["system"] = "system"
    version: str
    healthy: bool
    """Whether every service is up."""
    services: list[ServiceView]


class QueueView(View):
    """One Redis stream as it is now."""

    id: str
    """Its key."""
    object: Literal["queue"] = "queue"
    name: str
    """prompts | groups | events"""
    job_id: str | None
    attempt: int | None
    entries: int
    """Entries not yet decoded (prompts), consumed (groups) or recorded (events)."""
    pending: int
    """Of these, those that a consumer holds."""
    oldest_age_s: float | None
    """Of the oldest entry; null where there is none, and for events, which are kept after they were
    recorded.
    """
    bytes: int
