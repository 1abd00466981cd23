"""/v1/demo: the demo's job on an installation that runs already"""

from typing import Annotated

from fastapi import APIRouter, Query

from services.api.http.auth import Who
from services.api.http.resources import Res
from services.api.schemas.jobs import JobView
from services.api.use_cases import demo

router = APIRouter(tags=["jobs"])


@router.post("/v1/demo", status_code=201)
def create_demo_job(
    resources: Res,
    caller: Who,
    seed: Annotated[
        int, Query(ge=0, lt=2**31, description="Seed of the data, the model and the job.")
    ] = 0,
) -> JobView:
    """Have a trainer make a tiny model, make arithmetic problems, and submit the job that learns
    them; takes seconds.
    """
    return JobView.model_validate(demo.create_demo_job(resources, caller, seed))
