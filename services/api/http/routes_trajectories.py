"""/v1/jobs/{id}/groups, /v1/jobs/{id}/trajectories and /v1/trajectories/{id}"""

from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from services.api.http.paging import to_page
from services.api.http.resources import Res
from services.api.http.slots import HoldsHeavySlot
from services.api.schemas.envelope import Page
from services.api.schemas.trajectories import (
    GroupQuery,
    GroupView,
    TrajectoryDetail,
    TrajectoryExport,
    TrajectoryQuery,
    TrajectoryView,
)
from services.api.use_cases import trajectories
from services.api.use_cases.trajectory_export import (
    iter_json_lines,
    iter_training_rows,
    make_parquet,
)

router = APIRouter(tags=["trajectories"])

_JSON_LINES: Final = "application/jsonl"
_PARQUET: Final = "application/vnd.apache.parquet"


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


@router.get(
    "/v1/jobs/{job_id}/trajectories/export",
    response_class=StreamingResponse,
    responses={200: {"content": {_JSON_LINES: {}, _PARQUET: {}}}},
)
async def export_trajectories(
    resources: Res, job_id: str, query: Annotated[TrajectoryExport, Query()], _slot: HoldsHeavySlot
) -> StreamingResponse:
    """Trajectories that were kept as rows of a data file, with prompt turns, completion, answer, reward and
    the order in which tokens were unmasked.
    """
    rows = await resources.heavy.run(iter_training_rows, resources, job_id, query)
    kind = _JSON_LINES if query.format == "jsonl" else _PARQUET
    parts: Iterator[bytes] = (
        iter_json_lines(rows)
        if query.format == "jsonl"
        else await resources.heavy.run(make_parquet, rows)
    )
    name = f"{job_id}-trajectories.{query.format}"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(resources.heavy.iterate(parts), media_type=kind, headers=headers)


@router.get("/v1/trajectories/{trajectory_id}")
def get_trajectory(resources: Res, trajectory_id: str) -> TrajectoryDetail:
    """One trajectory with everything that is stored of it."""
    return trajectories.read_trajectory(resources, trajectory_id)
