"""/v1/metrics: series of several jobs, to be compared"""

from typing import Annotated, Final

from fastapi import APIRouter, Query

from services.api.db.jobs import get_job
from services.api.db.series import SeriesQuery, read_series
from services.api.domain.failure import make_not_found
from services.api.http.auth import Who
from services.api.http.paging import make_page
from services.api.http.resources import Res
from services.api.schemas.envelope import Page
from services.api.schemas.records import MetricSeries

router = APIRouter(tags=["records"])
_MAX_JOBS: Final = 100
Names = Annotated[
    list[str] | None, Query(description="Metrics, repeated or comma-separated; all by default.")
]
Downsample = Annotated[
    int | None, Query(ge=4, description="At most this many points of each metric.")
]


@router.get("/v1/metrics")
def compare_metrics(
    resources: Res,
    caller: Who,
    job_id: Annotated[
        list[str], Query(min_length=1, max_length=_MAX_JOBS, description="Jobs, repeated.")
    ],
    names: Names = None,
    downsample: Downsample = None,
) -> Page[MetricSeries]:
    """Metric series of several jobs at once, by job and name."""
    job_ids = list(dict.fromkeys(job_id))
    with resources.database.begin() as session:
        for wanted in job_ids:
            if not caller.owns(get_job(session, wanted).project):
                raise make_not_found("job", wanted, "GET /v1/jobs", param="job_id")
        series = read_series(
            session, job_ids, SeriesQuery(names=names or (), downsample=downsample)
        )
    return make_page([(f"{item.job_id}/{item.name}", item) for item in series], len(series))
