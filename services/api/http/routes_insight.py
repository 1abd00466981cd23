"""/v1/jobs/{id}/diagnosis and /v1/jobs/{id}/logs: what limits a job, and what its services log."""

from collections.abc import AsyncIterator
from datetime import timedelta
from time import time
from typing import Annotated, Final

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from services.api.adapters.job_logs import LEARNER, JobLog, LogLine, job_log
from services.api.db.jobs import find_recent_log, get_job
from services.api.domain.diagnosis import JobSnapshot, diagnose
from services.api.domain.event_ids import parse_position
from services.api.http.paging import to_page
from services.api.http.resources import Limit, Res, Resources
from services.api.http.slots import HoldsStreamSlot
from services.api.schemas.envelope import Page
from services.api.schemas.jobs import DiagnosisView, LogLineView
from services.common.events import STREAMS_LOST

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["insight"])

_STREAM: Final = "text/event-stream"
_POLL_S: Final = 0.5
_BATCH: Final = 500
_RECENT: Final = timedelta(minutes=5)
"""How long a loss of streams stays the finding of the diagnosis."""


@router.get("/diagnosis")
def get_diagnosis(resources: Res, job_id: str) -> DiagnosisView:
    """One sentence on what limits the job, and a change that helps."""
    with resources.database.begin() as session:
        job = get_job(session, job_id)
        streams_lost = find_recent_log(session, job, STREAMS_LOST, _RECENT)
    found = diagnose(
        JobSnapshot(
            state=job.job_state,
            phase=job.phase,
            waiting_for=job.awaited_service,
            waiting_reason=job.waiting_reason,
            stalled=job.stalled,
            error_code=job.error_code,
            error_message=job.error_message,
            since_step_s=0.0 if job.progress is None else time() - job.progress["time"],
            retry_reason=None if job.retry_at is None else job.retry_reason,
            certificate=job.certificate,
            metrics=job.latest_metrics,
            spec=job.spec,
            streams_lost=streams_lost,
        )
    )
    return DiagnosisView(
        job_id=job_id, code=found.code, sentence=found.sentence, suggestion=found.suggestion
    )


@router.get("/logs", response_model=Page[LogLineView], responses={200: {"content": {_STREAM: {}}}})
def list_log_lines(
    resources: Res,
    job_id: str,
    _slot: HoldsStreamSlot,
    service: Annotated[
        str, Query(description="learner, or a service on the API's machine.")
    ] = LEARNER,
    attempt: Annotated[int | None, Query(ge=1, description="The newest by default.")] = None,
    after: Annotated[str | None, Query(description="Id of the last line that is known.")] = None,
    limit: Limit = 100,
    follow: Annotated[
        bool, Query(description="Stream lines as they are written, until the job is over.")
    ] = False,
) -> Page[LogLineView] | StreamingResponse:
    """What a service wrote about an attempt of the job, oldest first."""
    with resources.database.begin() as session:
        number = attempt or max(1, get_job(session, job_id).attempt)
    log = job_log(resources.data_dir, job_id, service, number)
    offset = parse_position(after)
    if follow:
        stream = _follow_log(resources, log, service, offset)
        return StreamingResponse(stream, media_type=_STREAM, headers={"cache-control": "no-store"})
    views = [_to_view(log, service, line) for line in log.read(offset, limit + 1)]
    return to_page(LogLineView, views, limit)


def _to_view(log: JobLog, service: str, line: LogLine) -> LogLineView:
    return LogLineView(
        id=f"log_{service}_{log.attempt}_{line.offset}",
        service=service,
        attempt=log.attempt,
        time=line.time,
        level=line.level,
        message=line.message,
        fields=line.fields,
    )


async def _follow_log(
    resources: Resources, log: JobLog, service: str, offset: int
) -> AsyncIterator[str]:
    while not resources.stopping.is_set():
        over = await anyio.to_thread.run_sync(_is_over, resources, log.job_id)
        lines = await anyio.to_thread.run_sync(log.read, offset, _BATCH)
        for line in lines:
            view = _to_view(log, service, line)
            yield f"id: {view.id}\nevent: line\ndata: {view.model_dump_json()}\n\n"
        offset = lines[-1].offset if lines else offset
        if over and not lines:
            yield "event: done\ndata: [DONE]\n\n"
            return
        if not lines:
            await anyio.sleep(_POLL_S)


def _is_over(resources: Resources, job_id: str) -> bool:
    with resources.database.begin() as session:
        return get_job(session, job_id).job_state.is_terminal
