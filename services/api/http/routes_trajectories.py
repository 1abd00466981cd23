"""/v1/jobs/{id}/groups, /v1/jobs/{id}/trajectories and /v1/trajectories/{id}"""

from typing import Annotated

from fastapi import APIRouter, Query

from services.api.http.paging import to_page
from services.api.http.resources import Res
from services.api.schemas.envelope import Page
from services.api.schemas.trajectories import (
    GroupQuery,
    GroupView,
    TrajectoryDetail,
    TrajectoryQuery,
    TrajectoryView,
)
from services.api.use_cases import trajectories

router = APIRouter(tags=["trajectories"])


@router.get("/v1/jobs/{job_id}/groups")
def list_groups(
    resources: Res, job_id: str, query: Annotated[GroupQuery, Query()]
) -> Page[GroupView]:
    """Groups that were kept, newest step first."""
    return to_page(GroupView, trajectories.list_groups(resources, job_id, query), query.limit)


@router.get("/v1/jobs/{job_id}/trajectories")
def list_trajectories(
    resources: Res, job_id: str, query: Annotated[TrajectoryQuery, Query()]
) -> Page[TrajectoryView]:
    """Trajectories that were kept, by step, group and index."""
    views = trajectories.list_trajectories(resources, job_id, query)
    return to_page(TrajectoryView, views, query.limit)


@router.get("/v1/trajectories/{trajectory_id}")
def get_trajectory(resources: Res, trajectory_id: str) -> TrajectoryDetail:
    """One trajectory with everything that is stored of it."""
    return trajectories.read_trajectory(resources, trajectory_id)
