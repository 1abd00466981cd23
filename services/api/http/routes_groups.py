"""/v1/jobs/{id}/groups: prompts with what became of their responses, without the arrays"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, any_, func, literal, select, tuple_

from services.api.db.jobs import get_job
from services.api.db.record_tables import TrajectoryGroup
from services.api.db.trajectories import GroupRow, without_arrays
from services.api.http.envelope import Page, page_of
from services.api.http.resources import Res
from services.api.http.token_texts import whole_text
from services.api.http.views import unix
from services.common.errors import PlatformError
from services.common.trajectory import Outcome, Purpose

router = APIRouter(tags=["trajectories"])


class GroupView(BaseModel):
    """One prompt with its responses, in the order of `response_index`."""

    id: str
    object: Literal["group"] = "group"
    created_at: int
    job_id: str
    attempt: int
    step: int
    purpose: str
    disposition: str
    """trained | evaluated | dropped, with the reason"""
    prompt: str | None
    """Special tokens left out; null when the model's tokenizer is gone."""
    gold: str
    trajectory_ids: list[str]
    outcomes: list[str]
    """Of every response; "ungraded" where there is no verdict."""
    rewards: list[float | None]
    """Sum of the graders' scores of every response; null where the outcome carries no number."""
    staleness: int | None
    """Weight versions between the oldest response and the step that trained on it; null for
    evaluations.
    """
    replica: str | None
    rollout_s: float | None
    reward_s: float | None


class GroupQuery(BaseModel):
    """Which groups are wanted."""

    model_config = ConfigDict(extra="forbid")

    step: int | None = Field(None, ge=0)
    group_id: str | None = None
    purpose: Purpose | None = None
    outcome: Outcome | None = Field(None, description="Some response was judged so.")
    mixed: bool = Field(False, description="Only groups whose responses were judged differently.")
    after: str | None = Field(None, description="Id of the last item of the previous page.")
    limit: int = Field(20, ge=1, le=200, description="Items of a page.")

    def select(self, job_id: str) -> Select[TrajectoryGroup]:
        """Such groups of a job."""
        table = TrajectoryGroup
        statement = select(table).where(table.job_id == job_id)
        if self.step is not None:
            statement = statement.where(table.step == self.step)
        if self.group_id is not None:
            statement = statement.where(table.group_id == self.group_id)
        if self.purpose is not None:
            statement = statement.where(table.purpose == self.purpose)
        if self.outcome is not None:
            statement = statement.where(literal(self.outcome.value) == any_(table.outcomes))
        if self.mixed:
            first = table.outcomes[1]
            statement = statement.where(
                func.cardinality(func.array_remove(table.outcomes, first)) > 0
            )
        return statement


@router.get("/v1/jobs/{job_id}/groups")
def list_groups(
    resources: Res, job_id: str, query: Annotated[GroupQuery, Query()]
) -> Page[GroupView]:
    """Groups that were kept, newest step first."""
    place = tuple_(TrajectoryGroup.step, TrajectoryGroup.group_id)
    statement = query.select(job_id)
    with resources.database.begin() as session:
        job = get_job(session, job_id)
        if query.after is not None:
            last = session.get(TrajectoryGroup, query.after)
            if last is None:
                raise PlatformError(
                    "not_found", f"after={query.after!r} names no group of this job.", param="after"
                )
            statement = statement.where(place < (last.step, last.group_id))
        ordered = statement.order_by(TrajectoryGroup.step.desc(), TrajectoryGroup.group_id.desc())
        rows = session.execute(without_arrays(ordered.limit(query.limit + 1))).all()
    views = [_view(row, job.model_path) for row in rows]
    return page_of([(view.id, view) for view in views], query.limit)


def _view(row: GroupRow, model_path: str) -> GroupView:
    group = row.payload["group"]
    trajectories = group["trajectories"]
    return GroupView(
        id=row.group_id,
        created_at=unix(row.created_at),
        job_id=row.job_id,
        attempt=row.attempt,
        step=row.step,
        purpose=row.purpose,
        disposition=row.disposition,
        prompt=whole_text(model_path, group["prompt_ids"]),
        gold=group["gold"],
        trajectory_ids=[trajectory["trajectory_id"] for trajectory in trajectories],
        outcomes=row.outcomes,
        rewards=[_reward(trajectory) for trajectory in trajectories],
        staleness=_staleness(row, trajectories),
        replica=group.get("replica"),
        rollout_s=group.get("rollout_s"),
        reward_s=group.get("reward_s"),
    )


def _reward(trajectory: dict[str, Any]) -> float | None:
    rewards = (trajectory.get("verdict") or {}).get("rewards") or {}
    return sum(rewards.values()) if rewards else None


def _staleness(row: GroupRow, trajectories: list[dict[str, Any]]) -> int | None:
    """Step n trains the weights of version n - 1."""
    if row.purpose != Purpose.TRAIN:
        return None
    oldest: int = min(trajectory["weight_version"] for trajectory in trajectories)
    return row.step - 1 - oldest
