"""/v1/jobs: submit, list, look, steer"""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import ColumnElement

from services.api.db.job_tables import Job
from services.api.db.jobs import (
    get_job,
    lock_job,
    mentions,
    queue_again,
    running_attempt,
    transition,
)
from services.api.domain.access import Caller
from services.api.domain.job_state import RESUMABLE, JobState, require_state
from services.api.http.auth import Who
from services.api.http.envelope import Page, page_of
from services.api.http.forecasting import JobForecast, forecast, require_prospects, require_room
from services.api.http.paging import newest_first, owned_by
from services.api.http.resources import After, Limit, Res, Resources
from services.api.http.submission import Submission, Submissions
from services.api.http.views import JobView, job_view

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_CREATED: Final = 201
_MAX_SEARCH: Final = 200


@router.post(
    "",
    status_code=_CREATED,
    response_model=JobView,
    responses={200: {"model": JobView | JobForecast}},
)
def create_job(
    resources: Res,
    caller: Who,
    response: Response,
    body: Annotated[dict[str, Any], Body()],
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="Repeating a request with its key gives the same job.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, Query(description="Answer with a forecast; nothing is submitted.")
    ] = False,
    preflight: Annotated[
        bool, Query(description="Refuse the job when its forecast speaks against it.")
    ] = False,
) -> JobView | Response:
    """Submit a job spec. All that is wrong with it is said at once. 200 when the key was used for
    this job before.

    With `dry_run` the answer is a forecast (200): rows, steps, memory and disk, and what the base
    model does with some of the prompts when a replica is free. A job that cannot fit is always
    refused; with `preflight` one that cannot learn is, too.
    """
    if dry_run:
        foretold = forecast(resources, caller, submissions_of(resources, caller).check(body))
        return JSONResponse(foretold.model_dump(mode="json"))
    job, is_new = submit(resources, caller, body, idempotency_key, preflight=preflight)
    if not is_new:
        response.status_code = 200
    return job_view(job)


def submissions_of(resources: Resources, caller: Caller, *, preflight: bool = False) -> Submissions:
    """What checks and stores the caller's jobs."""

    def require(submission: Submission) -> None:
        resources.require_quota(caller.project)
        if preflight:
            require_prospects(resources, caller, submission)
        else:
            require_room(resources, submission)

    return Submissions(
        resources.database, len(resources.settings.rollout_addresses), caller, require
    )


def submit(
    resources: Resources,
    caller: Caller,
    body: Any,
    idempotency_key: str | None,
    *,
    preflight: bool = False,
) -> tuple[Job, bool]:
    """The job, and whether it is new."""
    job, is_new = submissions_of(resources, caller, preflight=preflight).submit(
        body, idempotency_key
    )
    if is_new:
        resources.hints.dispatch()
    return job, is_new


def _conditions(
    request: Request,
    status: Annotated[list[JobState] | None, Query(description="Any of these states.")] = None,
    method: Annotated[str | None, Query(description="sft | rl | eval | pipeline")] = None,
    q: Annotated[
        str,
        Query(
            max_length=_MAX_SEARCH,
            description="Words, each of which stands somewhere in id, suffix, model, method, state or metadata.",
        ),
    ] = "",
) -> list[ColumnElement[bool]]:
    conditions = [mentions(word) for word in q.split()]
    if status:
        conditions.append(Job.state.in_(status))
    if method is not None:
        conditions.append(Job.method == method)
    if labels := dict(_metadata(request)):
        conditions.append(Job.labels.contains(labels))
    return conditions


@router.get("")
def list_jobs(
    resources: Res,
    caller: Who,
    conditions: Annotated[list[ColumnElement[bool]], Depends(_conditions)],
    after: After = None,
    limit: Limit = 20,
) -> Page[JobView]:
    """Jobs, newest first. `metadata[key]=value` selects by metadata."""
    statement = owned_by(Job, caller).where(*conditions)
    with resources.database.begin() as session:
        rows = newest_first(session, Job, statement, after, limit)
    return page_of([(row.id, job_view(row)) for row in rows], limit)


def _metadata(request: Request) -> Iterator[tuple[str, str]]:
    for name, value in request.query_params.multi_items():
        if name.startswith("metadata[") and name.endswith("]"):
            yield name.removeprefix("metadata[").removesuffix("]"), value


@router.get("/{job_id}")
def get_one_job(resources: Res, job_id: str) -> JobView:
    """One job."""
    with resources.database.begin() as session:
        return job_view(get_job(session, job_id))


@router.post("/{job_id}/cancel")
def cancel_job(resources: Res, job_id: str) -> JobView:
    """Stop a job for good, with a checkpoint when it is training. Cancelling it again changes
    nothing.
    """
    with resources.database.begin() as session:
        job = lock_job(session, job_id)
        if job.job_state not in (JobState.CANCELLING, JobState.CANCELLED):
            transition(session, job, JobState.CANCELLING)
        if job.job_state is JobState.CANCELLING and running_attempt(session, job_id) is None:
            transition(session, job, JobState.CANCELLED)
    resources.hints.reconcile(job_id)
    return job_view(job)


@router.post("/{job_id}/pause")
def pause_job(resources: Res, job_id: str) -> JobView:
    """Stop a running job with a checkpoint, and give its services to others until it is resumed."""
    with resources.database.begin() as session:
        job = lock_job(session, job_id)
        transition(session, job, JobState.PAUSING)
    resources.hints.reconcile(job_id)
    return job_view(job)


@router.post("/{job_id}/resume")
def resume_job(resources: Res, job_id: str) -> JobView:
    """Queue a paused job again; it goes on from its newest checkpoint."""
    with resources.database.begin() as session:
        job = lock_job(session, job_id)
        require_state(job_id, "resume", job.job_state, RESUMABLE)
        resources.require_quota(job.project)
        queue_again(session, job)
    resources.hints.dispatch()
    return job_view(job)
