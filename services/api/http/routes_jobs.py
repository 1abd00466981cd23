"""/v1/jobs: submit, list, show"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import ColumnElement

from services.api.db.job_tables import Job
from services.api.db.jobs import get_job, mentions
from services.api.db.listing import newest_first, owned_by
from services.api.domain.job_state import JobState
from services.api.http.auth import Who
from services.api.http.paging import to_page
from services.api.http.resources import After, Limit, Res
from services.api.schemas.envelope import Page
from services.api.schemas.estimates import JobEstimate
from services.api.schemas.jobs import JobView
from services.api.use_cases.create_job import submit_job
from services.api.use_cases.estimate import estimate_submission

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_CREATED: Final = 201
_MAX_SEARCH: Final = 200


@router.post(
    "",
    status_code=_CREATED,
    response_model=JobView,
    responses={200: {"model": JobView | JobEstimate}},
)
async def create_job(
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
        bool, Query(description="Return an estimate; nothing is submitted.")
    ] = False,
    preflight: Annotated[
        bool, Query(description="Refuse the job when its estimate finds problems.")
    ] = False,
) -> JobView | Response:
    """Submit a job spec. Every problem with it is reported at once. 200 when the key was used for
    this job before.

    With `dry_run` the response is an estimate (200): rows, steps, memory and disk, and what the base
    model does with some of the prompts when a replica is free. A job that cannot fit is always
    refused; with `preflight` one that cannot learn is, too.
    """
    # Both may have a replica answer prompts, and read every row of every file.
    with resources.heavy.slots.take(caller.project):
        if dry_run:
            estimate = await resources.heavy.run(estimate_submission, resources, caller, body)
            return JSONResponse(estimate.model_dump(mode="json"))
        job, is_new = await resources.heavy.run(
            submit_job, resources, caller, body, key=idempotency_key, preflight=preflight
        )
    if not is_new:
        response.status_code = 200
    return JobView.model_validate(job)


def _to_conditions(
    request: Request,
    status: Annotated[list[JobState] | None, Query(description="Any of these states.")] = None,
    method: Annotated[str | None, Query(description="sft | rl | eval | pipeline")] = None,
    q: Annotated[
        str,
        Query(
            max_length=_MAX_SEARCH,
            description="Words, each of which occurs in id, suffix, model, method, state or metadata.",
        ),
    ] = "",
) -> list[ColumnElement[bool]]:
    conditions = [mentions(word) for word in q.split()]
    if status:
        conditions.append(Job.state.in_(status))
    if method is not None:
        conditions.append(Job.method == method)
    labels = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query_params.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if labels:
        conditions.append(Job.labels.contains(labels))
    return conditions


@router.get("")
def list_jobs(
    resources: Res,
    caller: Who,
    conditions: Annotated[list[ColumnElement[bool]], Depends(_to_conditions)],
    after: After = None,
    limit: Limit = 20,
) -> Page[JobView]:
    """Jobs, newest first. `metadata[key]=value` selects by metadata."""
    statement = owned_by(Job, caller).where(*conditions)
    with resources.database.begin() as session:
        rows = newest_first(session, Job, statement, after, limit)
    return to_page(JobView, rows, limit)


@router.get("/{job_id}")
def get_one_job(resources: Res, job_id: str) -> JobView:
    """One job."""
    with resources.database.begin() as session:
        return JobView.model_validate(get_job(session, job_id))
