"""/v1/demo: the demo's job on an installation that runs already"""

from typing import Annotated

from fastapi import APIRouter, Query

from services.api.cli.failure import CommandError
from services.api.demo_job import make_demo_job
from services.api.http.auth import Who
from services.api.http.resources import Res
from services.api.http.routes_jobs import submit
from services.api.http.views import JobView, job_view
from services.common.errors import PlatformError

router = APIRouter(tags=["jobs"])


@router.post("/v1/demo", status_code=201)
def create_demo_job(
    resources: Res,
    caller: Who,
    seed: Annotated[int, Query(ge=0, lt=2**31, description="Of the data, the model and the job.")] = 0,
) -> JobView:
    """Make a tiny model and arithmetic problems on the server, and submit the job that trains it; takes seconds."""
    try:
        spec = make_demo_job(resources.data_dir / "demo" / str(seed), seed)
    except CommandError as error:
        raise PlatformError(
            "model_invalid",
            f"Cannot make the demo's model: {error}",
            hint="Making it needs torch beside the API: run `dirl demo`, or submit a job with a model of your own.",
        ) from error
    job, _ = submit(resources, caller, spec, None)
    return job_view(job)
