"""Authentication and authorisation of requests, and an audit entry for each that is to change
something.

On a loopback address every user of the machine is trusted and needs no key; elsewhere every request
to /v1 needs one.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from anyio.to_thread import run_sync
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.api.db.access import SECRET_PREFIX, caller_of
from services.api.db.access_tables import AuditEntry
from services.api.db.job_tables import Job
from services.api.db.record_tables import (
    Checkpoint,
    Export,
    RegisteredModel,
    StoredFile,
    TrajectoryGroup,
)
from services.api.domain.access import LOCAL, Caller, require_scope
from services.api.domain.failure import make_not_found
from services.api.http.resources import Res, Resources
from services.common.errors import PlatformError
from services.common.rpc.security import is_loopback

_PREFIX: Final = "/v1/"
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_bearer: Final = HTTPBearer(
    auto_error=False, description="An API key; not needed on loopback addresses."
)


async def authorize(
    request: Request,
    resources: Res,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> AsyncIterator[None]:
    """Set request.state.caller; raises PlatformError "unauthenticated", "permission_denied",
    "rate_limited".

    What belongs to another project does not exist for the caller: "not_found". Only what asks the
    database takes a thread: reads by a local user, of which a dashboard makes many, take none.
    """
    if not request.url.path.startswith(_PREFIX):
        yield
        return
    caller = _find_local_caller(request, resources, credentials)
    if caller is None:
        caller = await run_sync(_find_caller_by_key, resources, credentials)
    request.state.caller = caller
    outcome = "done"
    try:
        _require_rate(resources, caller)
        require_scope(caller, request.method, request.url.path)
        if not caller.is_admin:
            await run_sync(_require_ownership, resources, caller, request.path_params)
        yield
    except PlatformError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = "internal"
        raise
    finally:
        if request.method not in _READING:
            await run_sync(_write_audit_entry, request, resources, caller, outcome)


def _find_local_caller(
    request: Request, resources: Resources, credentials: HTTPAuthorizationCredentials | None
) -> Caller | None:
    """The local user, on loopback and without an API key of this platform; OpenAI's clients send
    some other key."""
    if not is_loopback(resources.settings.api_listen):
        return None
    if credentials is not None and credentials.credentials.startswith(SECRET_PREFIX):
        return None
    # A page of the web may reach for this machine from the user's browser: by another origin, or by a
    # name of its own that resolves to loopback.
    given = [f"//{host}" for host in request.headers.getlist("host") or [""]]
    for address in (*given, *request.headers.getlist("origin")):
        host = _find_host(address)
        if host is None or not is_loopback(f"{host}:0"):
            raise PlatformError(
                "permission_denied",
                f"A page of {host!r} must not use the API of this machine.",
                hint="Open the API by its loopback address, or send an API key.",
            )
    return LOCAL


def _find_host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # not an address, such as `//[`
        return None


def _find_caller_by_key(
    resources: Resources, credentials: HTTPAuthorizationCredentials | None
) -> Caller:
    if credentials is None:
        raise PlatformError(
            "unauthenticated",
            "The request has no API key.",
            hint="Send `Authorization: Bearer sk-dirl-…`; an admin makes keys with POST /v1/api_keys.",
        )
    with resources.database.begin() as session:
        return caller_of(session, credentials.credentials)


def _require_rate(resources: Resources, caller: Caller) -> None:
    if caller.key_id is None:
        return
    wait_s = resources.rates.wait_s(caller.key_id, time.monotonic())
    if wait_s > 0:
        limit = resources.settings.rate_limit_per_s
        raise PlatformError(
            "rate_limited",
            f"The key makes more than {limit:g} requests per second.",
            hint=f"Wait {wait_s:.2f} s.",
            retry_after_s=wait_s,
        )


_Finder = Callable[[Session, str], str | None]


def _find_project_of_export(session: Session, export_id: str) -> str | None:
    joined = (
        select(Job.project).join(Checkpoint).join(Export, Export.checkpoint_id == Checkpoint.id)
    )
    return session.scalar(joined.where(Export.id == export_id))


def _find_project_of_trajectory(session: Session, trajectory_id: str) -> str | None:
    group = f"grp_{trajectory_id.removeprefix('traj_').rpartition('_')[0]}"
    joined = select(Job.project).join(TrajectoryGroup, TrajectoryGroup.job_id == Job.id)
    return session.scalar(joined.where(TrajectoryGroup.group_id == group))


_OWNERS: Final[Mapping[str, _Finder]] = {
    "job_id": lambda session, job_id: session.scalar(select(Job.project).where(Job.id == job_id)),
    "file_id": lambda session, file_id: session.scalar(
        select(StoredFile.project).where(StoredFile.id == file_id)
    ),
    "model_id": lambda session, model_id: session.scalar(
        select(RegisteredModel.project).where(RegisteredModel.id == model_id)
    ),
    "checkpoint_id": lambda session, checkpoint_id: session.scalar(
        select(Job.project).join(Checkpoint).where(Checkpoint.id == checkpoint_id)
    ),
    "export_id": _find_project_of_export,
    "trajectory_id": _find_project_of_trajectory,
}
"""Project of what a parameter of the path names."""


def _require_ownership(resources: Resources, caller: Caller, named: Mapping[str, Any]) -> None:
    with resources.database.begin() as session:
        for parameter, value in named.items():
            if parameter not in _OWNERS:
                continue
            project = _OWNERS[parameter](session, value)
            if project is None or not caller.owns(project):
                raise make_not_found(parameter.removesuffix("_id"), value, param=parameter)


def _write_audit_entry(
    request: Request, resources: Resources, caller: Caller, outcome: str
) -> None:
    with resources.database.begin() as session:
        session.add(
            AuditEntry(
                key_id=caller.key_id,
                project=caller.project,
                method=request.method,
                path=request.url.path,
                outcome=outcome,
                request_id=request.scope["state"]["request_id"],
            )
        )


async def _caller_of_request(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(_caller_of_request)]
