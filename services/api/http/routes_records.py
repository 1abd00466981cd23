"""/v1/jobs/{id}/…: what a job left behind"""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from services.api.db.job_tables import Attempt
from services.api.db.jobs import get_job
from services.api.db.record_tables import Checkpoint, Evaluation
from services.api.db.series import SeriesQuery, read_series
from services.api.domain.event_ids import parse_position
from services.api.http.paging import make_page, to_page, to_page_after
from services.api.http.resources import After, Limit, Res
from services.api.http.routes_metrics import Downsample, Names
from services.api.http.slots import HoldsStreamSlot
from services.api.http.sse import event_stream
from services.api.schemas.envelope import Page
from services.api.schemas.records import (
    AttemptView,
    CertificateView,
    CheckpointView,
    EvaluationView,
    EventQuery,
    EventView,
    MetricSeries,
    PromptView,
)
from services.api.use_cases.event_feed import EventFilter, events_after, events_before
from services.api.use_cases.prompt_results import PromptOrder, read_prompt_results

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["records"])
_STREAM = "text/event-stream"


@router.get("/events", response_model=Page[EventView], responses={200: {"content": {_STREAM: {}}}})
def list_events(
    request: Request,
    resources: Res,
    job_id: str,
    query: Annotated[EventQuery, Query()],
    _slot: HoldsStreamSlot,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Page[EventView] | StreamingResponse:
    """Events, oldest first. With `Accept: text/event-stream` they are streamed live, after
    Last-Event-ID or `after`.
    """
    cursor = last_event_id or query.after
    position = parse_position(cursor)
    with resources.database.begin() as session:
        get_job(session, job_id)
        if _STREAM not in request.headers.get("accept", ""):
            if query.order == "asc":
                events = events_after(job_id, position, _to_filter(query))
            else:
                before = None if cursor is None else position
                events = events_before(job_id, before, _to_filter(query))
            rows = session.scalars(events.limit(query.limit + 1))
            return to_page(EventView, rows, query.limit)
    stream = event_stream(resources, job_id, position, _to_filter(query))
    return StreamingResponse(stream, media_type=_STREAM, headers={"cache-control": "no-store"})


def _to_filter(query: EventQuery) -> EventFilter:
    return EventFilter(tuple(query.type), query.level)


@router.get("/metrics")
def list_metrics(
    resources: Res,
    job_id: str,
    names: Names = None,
    from_step: Annotated[int | None, Query(ge=0)] = None,
    to_step: Annotated[int | None, Query(ge=0)] = None,
    downsample: Downsample = None,
) -> Page[MetricSeries]:
    """Metric series by name. Steps that a later attempt undid are left out."""
    query = SeriesQuery(
        names=names or (), from_step=from_step, to_step=to_step, downsample=downsample
    )
    with resources.database.begin() as session:
        get_job(session, job_id)
        series = read_series(session, [job_id], query)
    return make_page([(item.name, item) for item in series], len(series))


@router.get("/checkpoints")
def list_checkpoints(
    resources: Res,
    job_id: str,
    after: After = None,
    limit: Limit = 100,
    deleted: Annotated[
        bool, Query(description="Also those that were removed to keep within keep_last.")
    ] = False,
) -> Page[CheckpointView]:
    """Checkpoints by step."""
    statement = select(Checkpoint).where(Checkpoint.job_id == job_id)
    if not deleted:
        statement = statement.where(Checkpoint.deleted_at.is_(None))
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(statement.order_by(Checkpoint.step, Checkpoint.attempt)).all()
    return to_page_after(CheckpointView, rows, after, limit)


@router.get("/evals")
def list_evaluations(
    resources: Res, job_id: str, after: After = None, limit: Limit = 100
) -> Page[EvaluationView]:
    """Evaluations, oldest first."""
    statement = select(Evaluation).where(Evaluation.job_id == job_id)
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(statement.order_by(Evaluation.attempt, Evaluation.seq)).all()
    return to_page_after(EvaluationView, rows, after, limit)


@router.get("/attempts")
def list_attempts(
    resources: Res, job_id: str, after: After = None, limit: Limit = 100
) -> Page[AttemptView]:
    """Attempts by number."""
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(
            select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)
        ).all()
    return to_page_after(AttemptView, rows, after, limit)


@router.get("/prompts")
def list_prompts(
    resources: Res,
    job_id: str,
    order: Annotated[PromptOrder, Query(description="Order of the prompts.")] = "row",
    after: After = None,
    limit: Limit = 100,
) -> Page[PromptView]:
    """Pass rate of every prompt over time."""
    with resources.database.begin() as session:
        get_job(session, job_id)
        prompts = read_prompt_results(session, job_id, order)
    return to_page_after(PromptView, prompts, after, limit)


@router.get("/certificate")
def list_certificates(resources: Res, job_id: str) -> Page[CertificateView]:
    """The certificate of every attempt that gave one."""
    statement = select(Attempt).where(Attempt.job_id == job_id, Attempt.certificate.is_not(None))
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(statement.order_by(Attempt.number)).all()
    return to_page(CertificateView, rows, len(rows))
