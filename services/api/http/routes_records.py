"""/v1/jobs/{id}/…: what a job left behind"""

from collections import defaultdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.api.db.job_tables import Attempt
from services.api.db.jobs import get_job
from services.api.db.record_tables import Checkpoint, Evaluation, Metric
from services.api.domain.series import Point, downsample, surviving
from services.api.http.envelope import Page, page_after, page_of
from services.api.http.resources import After, Limit, Res
from services.api.http.sse import event_stream, events_after
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


@router.get("/events", response_model=Page[EventView], responses={200: {"content": {_STREAM: {}}}})
def list_events(
    request: Request,
    resources: Res,
    job_id: str,
    after: After = None,
    limit: Limit = 100,
    type: Annotated[list[str] | None, Query(description="Only these types.")] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Page[EventView] | StreamingResponse:
    """Events, oldest first. With `Accept: text/event-stream` they are streamed live, after Last-Event-ID or `after`."""
    position = event_position(last_event_id or after)
    types = type or ()
    with resources.database.begin() as session:
        get_job(session, job_id)
        if _STREAM not in request.headers.get("accept", ""):
            rows = session.scalars(events_after(job_id, position, types).limit(limit + 1)).all()
            views = [event_view(row) for row in rows]
            return page_of([(view.id, view) for view in views], limit)
    return StreamingResponse(
        event_stream(resources, job_id, position, types), media_type=_STREAM, headers={"cache-control": "no-store"}
    )


class MetricSeries(BaseModel):
    """One metric over the steps of the surviving lineage."""

    object: Literal["metric_series"] = "metric_series"
    name: str
    steps: list[int]
    values: list[float]
    attempts: list[int]
    """Attempt that made each step."""
    num_points: int
    """Before thinning."""


@router.get("/metrics")
def list_metrics(
    resources: Res,
    job_id: str,
    names: Annotated[
        list[str] | None, Query(description="Metrics, repeated or comma-separated; all by default.")
    ] = None,
    from_step: Annotated[int | None, Query(ge=0)] = None,
    to_step: Annotated[int | None, Query(ge=0)] = None,
    downsample: Annotated[int | None, Query(ge=4, description="At most this many points of each metric.")] = None,
) -> Page[MetricSeries]:
    """Metric series by name. Steps that a later attempt undid are left out."""
    wanted = [name for part in names or () for name in part.split(",") if name]
    statement = select(Metric).where(Metric.job_id == job_id)
    if wanted:
        statement = statement.where(Metric.name.in_(wanted))
    if from_step is not None:
        statement = statement.where(Metric.step >= from_step)
    if to_step is not None:
        statement = statement.where(Metric.step <= to_step)
    points: dict[str, list[Point]] = defaultdict(list)
    with resources.database.begin() as session:
        get_job(session, job_id)
        for row in session.scalars(statement):
            points[row.name].append(Point(row.attempt, row.step, row.value))
        resumed_from = _resumed_from(session, job_id)
    series = [(name, _series(name, points[name], resumed_from, downsample)) for name in sorted(points)]
    return page_of(series, len(series))


def _resumed_from(session: Session, job_id: str) -> dict[int, int]:
    rows = session.scalars(select(Attempt).where(Attempt.job_id == job_id, Attempt.resumed_from.is_not(None)))
    return {row.number: row.resumed_from for row in rows if row.resumed_from is not None}


def _series(name: str, points: list[Point], resumed_from: dict[int, int], limit: int | None) -> MetricSeries:
    lineage = surviving(points, resumed_from)
    shown = lineage if limit is None else downsample(lineage, limit)
    return MetricSeries(
        name=name,
        steps=[point.step for point in shown],
        values=[point.value for point in shown],
        attempts=[point.attempt for point in shown],
        num_points=len(lineage),
    )


@router.get("/checkpoints")
def list_checkpoints(
    resources: Res,
    job_id: str,
    after: After = None,
    limit: Limit = 100,
    deleted: Annotated[bool, Query(description="Also those that were removed to keep within keep_last.")] = False,
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
def list_evaluations(resources: Res, job_id: str, after: After = None, limit: Limit = 100) -> Page[EvaluationView]:
    """Evaluations, oldest first."""
    statement = select(Evaluation).where(Evaluation.job_id == job_id)
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(statement.order_by(Evaluation.attempt, Evaluation.seq)).all()
    views = [evaluation_view(row) for row in rows]
    return page_after([(view.id, view) for view in views], after, limit)


@router.get("/attempts")
def list_attempts(resources: Res, job_id: str, after: After = None, limit: Limit = 100) -> Page[AttemptView]:
    """Attempts by number."""
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)).all()
    return page_after([(row.id, attempt_view(row)) for row in rows], after, limit)


class CertificateView(BaseModel):
    """What the learner proved about its ledger when it took up the work of an earlier attempt."""

    object: Literal["job.certificate"] = "job.certificate"
    attempt: int
    certificate: dict[str, Any]
    """resumed_from, issued, trained, dropped, open, lost, trained_twice, digest_before, digest_after"""


@router.get("/certificate")
def list_certificates(resources: Res, job_id: str) -> Page[CertificateView]:
    """The certificate of every attempt that gave one."""
    statement = select(Attempt).where(Attempt.job_id == job_id, Attempt.certificate.is_not(None))
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(statement.order_by(Attempt.number)).all()
    views = [(row.id, CertificateView(attempt=row.number, certificate=row.certificate or {})) for row in rows]
    return page_of(views, len(views))
