"""A job's events as server-sent events: what is there, then what comes, until the job is over."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Final

import anyio
import anyio.to_thread
from sqlalchemy import Select, select

from services.api.db.job_tables import Job
from services.api.db.jobs import get_job
from services.api.db.record_tables import JobEvent
from services.api.http.resources import Resources
from services.api.http.views import event_view

_POLL_S: Final = 0.5
_KEEPALIVE_POLLS: Final = 30
_BATCH: Final = 500


async def event_stream(resources: Resources, job_id: str, position: int, types: Sequence[str]) -> AsyncIterator[str]:
    """Events after `position`; a comment every 15 s keeps proxies awake; `event: done` ends a finished job's stream."""
    quiet_polls = 0
    while not resources.stopping.is_set():
        events, finished = await anyio.to_thread.run_sync(_read, resources, job_id, position, types)
        for event in events:
            yield _frame(event)
        position = events[-1].position if events else position
        if len(events) == _BATCH:
            continue
        if finished:
            yield "event: done\ndata: [DONE]\n\n"
            return
        quiet_polls = 0 if events else quiet_polls + 1
        if quiet_polls % _KEEPALIVE_POLLS == _KEEPALIVE_POLLS - 1:
            yield ": keepalive\n\n"
        await anyio.sleep(_POLL_S)


def _read(resources: Resources, job_id: str, position: int, types: Sequence[str]) -> tuple[Sequence[JobEvent], bool]:
    """The next events, and whether the job was over when they were read (so that none can follow)."""
    with resources.database.begin() as session:
        job: Job = get_job(session, job_id)
        return session.scalars(events_after(job_id, position, types).limit(_BATCH)).all(), job.job_state.is_terminal


def events_after(job_id: str, position: int, types: Sequence[str]) -> Select[JobEvent]:
    """A job's events behind a position, in order; all types when none is named."""
    statement = _events(job_id, types).where(JobEvent.position > position)
    return statement.order_by(JobEvent.position)


def events_before(job_id: str, position: int | None, types: Sequence[str]) -> Select[JobEvent]:
    """A job's events ahead of a position, newest first; None is the end."""
    statement = _events(job_id, types)
    if position is not None:
        statement = statement.where(JobEvent.position < position)
    return statement.order_by(JobEvent.position.desc())


def _events(job_id: str, types: Sequence[str]) -> Select[JobEvent]:
    statement = select(JobEvent).where(JobEvent.job_id == job_id)
    return statement.where(JobEvent.type.in_(types)) if types else statement


def _frame(event: JobEvent) -> str:
    view = event_view(event)
    return f"id: {view.id}\nevent: {view.type}\ndata: {json.dumps(view.model_dump(mode='json'))}\n\n"
