"""/v1/demo: the demo's job on an installation that runs already"""

from typing import Annotated

from fastapi import APIRouter, Query

from services.api.demo_job import make_demo_job
from services.api.http.auth import Who
from services.api.http.resources import Res
from services.api.http.routes_jobs import submit
from services.api.http.views import JobView, job_view

router = APIRouter(tags=["jobs"])


@router.post("/v1/demo", status_code=201)
def create_demo_job(
    resources: Res,
    caller: Who,
    seed: Annotated[
        int, Query(ge=0, lt=2**31, description="Of the data, the model and the job.")
    ] = 0,
) -> JobView:
    """Have a tiny model made by a trainer, make arithmetic problems, submit the job that learns
    them; takes seconds.
    """
    directory = resources.data_dir / "demo" / str(seed)
    spec = make_demo_job(directory, seed, resources.fleet.make_tiny_model)
    job, _ = submit(resources, caller, spec, None)
    return job_view(job)
