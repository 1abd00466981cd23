"""/v1/jobs/{id}/diagnosis and /v1/jobs/{id}/logs: what holds a job up, and what its services say."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from services.api.db.job_tables import Job
from services.api.db.jobs import get_job
from services.api.domain.diagnosis import Facts, diagnose
from services.api.http.envelope import Page, page_of
from services.api.http.resources import Limit, Res, Resources
from services.api.job_logs import LEARNER, JobLog, LogLine, job_log
from services.common.errors import PlatformError

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["insight"])

_STREAM: Final = "text/event-stream"
_POLL_S: Final = 0.5
_BATCH: Final = 500


class DiagnosisView(BaseModel):
    """What holds a job up."""

    object: Literal["job.diagnosis"] = "job.diagnosis"
    job_id: str
    code: str
    """queued | waiting | stuck | failed | starved | truncation_limited | verifier_failing | verifier_bound |
    rollout_bound | sync_bound | trainer_bound | balanced | finished | starting
    """
    sentence: str
    suggestion: dict[str, Any]
    """Values for keys of the job spec that would help; empty when there is nothing to change."""


@router.get("/diagnosis")
def get_diagnosis(resources: Res, job_id: str) -> DiagnosisView:
    """One sentence on what holds the job up, and a change that helps."""
    with resources.database.begin() as session:
        job = get_job(session, job_id)
    found = diagnose(_facts(job))
    return DiagnosisView(
        job_id=job_id, code=found.code, sentence=found.sentence, suggestion=found.suggestion
    )


def _facts(job: Job) -> Facts:
    return Facts(
        state=job.job_state,
        phase=job.phase,
        waiting_for=job.waiting_for or job.learner_waiting_for,
        stalled=job.stalled,
        error_code=job.error_code,
        error_message=job.error_message,
        metrics=job.latest_metrics,
        spec=job.spec,
    )


class LogLineView(BaseModel):
    """One line of a log."""

    id: str
    object: Literal["job.log_line"] = "job.log_line"
    service: str
    attempt: int
    time: float | None
    """Unix seconds; null for a line of a traceback or stack dump."""
    level: str
    message: str
    fields: dict[str, Any]


@router.get("/logs", response_model=Page[LogLineView], responses={200: {"content": {_STREAM: {}}}})
def list_log_lines(
    resources: Res,
    job_id: str,
    service: Annotated[
        str, Query(description="learner, or a service that runs beside the API.")
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
    offset = _offset(after)
    if follow:
        stream = _followed(resources, log, service, offset)
        return StreamingResponse(stream, media_type=_STREAM, headers={"cache-control": "no-store"})
    views = [_view(log, service, line) for line in log.read(offset, limit + 1)]
    return page_of([(view.id, view) for view in views], limit)


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    number = cursor.rpartition("_")[2]
    if not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise PlatformError("invalid_request", f"{cursor!r} is no id of a log line.", param="after")
    return int(number)


def _view(log: JobLog, service: str, line: LogLine) -> LogLineView:
    return LogLineView(
        id=f"log_{service}_{log.attempt}_{line.offset}",
        service=service,
        attempt=log.attempt,
        time=line.time,
        level=line.level,
        message=line.message,
        fields=line.fields,
    )


async def _followed(
    resources: Resources, log: JobLog, service: str, offset: int
) -> AsyncIterator[str]:
    while not resources.stopping.is_set():
        over = await anyio.to_thread.run_sync(_is_over, resources, log.job_id)
        lines = await anyio.to_thread.run_sync(log.read, offset, _BATCH)
        for line in lines:
            view = _view(log, service, line)
            yield f"id: {view.id}\nevent: line\ndata: {json.dumps(view.model_dump(mode='json'))}\n\n"
        offset = lines[-1].offset if lines else offset
        if over and not lines:
            yield "event: done\ndata: [DONE]\n\n"
            return
        if not lines:
            await anyio.sleep(_POLL_S)


def _is_over(resources: Resources, job_id: str) -> bool:
    with resources.database.begin() as session:
        return get_job(session, job_id).job_state.is_terminal
