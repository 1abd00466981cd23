"""/v1/jobs/{id}/…: what a job left behind"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, select

from services.api.db.job_tables import Attempt
from services.api.db.jobs import get_job
from services.api.db.record_tables import Checkpoint, Evaluation, JobEvent
from services.api.http.envelope import Page, page_after, page_of
from services.api.http.event_feed import EventFilter, Level, events_after, events_before
from services.api.http.metric_series import (
    Downsample,
    MetricSeries,
    Names,
    SeriesQuery,
    read_series,
)
from services.api.http.resources import After, Limit, Res
from services.api.http.sse import event_stream
from services.api.http.views import (
    AttemptView,
    CheckpointView,
    EvaluationView,
    EventView,
    attempt_view,
    checkpoint_view,
    evaluation_view,
    event_position,
    event_view,
)

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["records"])
_STREAM = "text/event-stream"


class EventQuery(BaseModel):
    """Which events are wanted."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="Id of the last item of the previous page.")
    limit: int = Field(100, ge=1, le=1000, description="Items of a page.")
    type: list[str] = Field(default_factory=list, description="Only these types.")
    level: Level | None = Field(
        None, description="Of log events, only those of this level or a worse one."
    )
    order: Literal["asc", "desc"] = Field(
        "asc", description="Of a list; a stream always runs forward."
    )

    def selection(self) -> EventFilter:
        """Of types and level."""
        return EventFilter(tuple(self.type), self.level)


@router.get("/events", response_model=Page[EventView], responses={200: {"content": {_STREAM: {}}}})
def list_events(
    request: Request,
    resources: Res,
    job_id: str,
    query: Annotated[EventQuery, Query()],
    last_event_id: Annotated[str | None, Header()] = None,
) -> Page[EventView] | StreamingResponse:
    """Events, oldest first. With `Accept: text/event-stream` they are streamed live, after
    Last-Event-ID or `after`.
    """
    cursor = last_event_id or query.after
    position = event_position(cursor)
    with resources.database.begin() as session:
        get_job(session, job_id)
        if _STREAM not in request.headers.get("accept", ""):
            rows = session.scalars(_listed(job_id, cursor, query).limit(query.limit + 1)).all()
            views = [event_view(row) for row in rows]
            return page_of([(view.id, view) for view in views], query.limit)
    stream = event_stream(resources, job_id, position, query.selection())
    return StreamingResponse(stream, media_type=_STREAM, headers={"cache-control": "no-store"})


def _listed(job_id: str, cursor: str | None, query: EventQuery) -> Select[JobEvent]:
    if query.order == "asc":
        return events_after(job_id, event_position(cursor), query.selection())
    return events_before(
        job_id, None if cursor is None else event_position(cursor), query.selection()
    )


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
    return page_of([(item.name, item) for item in series], len(series))


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
    return page_after([(row.id, checkpoint_view(row)) for row in rows], after, limit)


@router.get("/evals")
def list_evaluations(
    resources: Res, job_id: str, after: After = None, limit: Limit = 100
) -> Page[EvaluationView]:
    """Evaluations, oldest first."""
    statement = select(Evaluation).where(Evaluation.job_id == job_id)
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(statement.order_by(Evaluation.attempt, Evaluation.seq)).all()
    views = [evaluation_view(row) for row in rows]
    return page_after([(view.id, view) for view in views], after, limit)


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
    return page_after([(row.id, attempt_view(row)) for row in rows], after, limit)


class CertificateView(BaseModel):
    """What the learner proved about its ledger when it took up the work of an earlier attempt."""

    object: Literal["job.certificate"] = "job.certificate"
    attempt: int
    certificate: dict[str, Any]
    """resumed_from, issued, trained, dropped, open, lost, trained_twice, digest_before,
    digest_after
    """


@router.get("/certificate")
def list_certificates(resources: Res, job_id: str) -> Page[CertificateView]:
    """The certificate of every attempt that gave one."""
    statement = select(Attempt).where(Attempt.job_id == job_id, Attempt.certificate.is_not(None))
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(statement.order_by(Attempt.number)).all()
    views = [
        (row.id, CertificateView(attempt=row.number, certificate=row.certificate or {}))
        for row in rows
    ]
    return page_of(views, len(views))
