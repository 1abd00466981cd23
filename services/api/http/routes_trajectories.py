"""/v1/jobs/{id}/trajectories and /v1/trajectories/{id}"""

from collections.abc import Generator, Mapping
from contextlib import closing
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, any_, literal, select, tuple_
from sqlalchemy.orm import Session

from services.api.db.jobs import get_job
from services.api.db.record_tables import TrajectoryGroup
from services.api.db.trajectories import GroupRow, without_arrays
from services.api.http.envelope import Page, page_of
from services.api.http.resources import Res
from services.api.http.token_texts import token_texts
from services.api.http.views import unix
from services.common.errors import PlatformError
from services.common.trajectory import Outcome, Purpose

router = APIRouter(tags=["trajectories"])
_GROUPS_PER_READ = 10


class TrajectoryView(BaseModel):
    """One sampled response, without its arrays."""

    id: str
    object: Literal["trajectory"] = "trajectory"
    created_at: int
    job_id: str
    attempt: int
    step: int
    group_id: str
    response_index: int
    purpose: str
    disposition: str
    outcome: str | None
    """Null when it was not graded."""
    reward: float | None
    """What the learner made of the graders' scores; null when the outcome carries no number."""
    rewards: dict[str, float]
    advantage: float | None
    gold: str
    text: str
    visible_len: int
    num_steps: int
    num_forwards: int
    finish_reason: str
    weight_version: int


class TrajectoryDetail(TrajectoryView):
    """One sampled response as the model produced it; what else the learner said of it stands
    beside.
    """

    model_config = ConfigDict(extra="allow")

    prompt: str | None
    """What the model was given, special tokens included; null when the model's tokenizer is gone."""
    prompt_ids: list[int]
    tokens: list[str] | None
    """Text of every token; one that is only part of a character is empty, and the one that
    completes it has it all. Null when the model's tokenizer is gone.
    """
    block_size: int
    mask_token_id: int
    token_ids: list[int]
    unmask_step: list[int]
    logprobs: list[float | None]
    confidences: list[float | None]
    verdict: dict[str, Any] | None


class TrajectoryQuery(BaseModel):
    """Which trajectories are wanted."""

    model_config = ConfigDict(extra="forbid")

    step: int | None = Field(None, ge=0)
    group_id: str | None = None
    purpose: Purpose | None = None
    outcome: Outcome | None = None
    min_reward: float | None = None
    after: str | None = Field(None, description="Id of the last item of the previous page.")
    limit: int = Field(20, ge=1, le=1000, description="Items of a page.")

    def groups(self, job_id: str) -> Select[TrajectoryGroup]:
        """Groups that have such trajectories."""
        statement = select(TrajectoryGroup).where(TrajectoryGroup.job_id == job_id)
        if self.step is not None:
            statement = statement.where(TrajectoryGroup.step == self.step)
        if self.group_id is not None:
            statement = statement.where(TrajectoryGroup.group_id == self.group_id)
        if self.purpose is not None:
            statement = statement.where(TrajectoryGroup.purpose == self.purpose)
        if self.outcome is not None:
            statement = statement.where(
                literal(self.outcome.value) == any_(TrajectoryGroup.outcomes)
            )
        if self.min_reward is not None:
            statement = statement.where(TrajectoryGroup.max_reward >= self.min_reward)
        return statement

    def wants(self, view: TrajectoryView) -> bool:
        """Whether this trajectory of such a group is one."""
        scored = view.reward is not None and (
            self.min_reward is None or view.reward >= self.min_reward
        )
        return (self.outcome is None or view.outcome == self.outcome) and (
            self.min_reward is None or scored
        )


@router.get("/v1/jobs/{job_id}/trajectories")
def list_trajectories(
    resources: Res, job_id: str, query: Annotated[TrajectoryQuery, Query()]
) -> Page[TrajectoryView]:
    """Trajectories that were kept, by step, group and index."""
    with resources.database.begin() as session:
        get_job(session, job_id)
        with closing(_views(session, query.groups(job_id), query.after)) as views:
            wanted = islice((view for view in views if query.wants(view)), query.limit + 1)
            return page_of([(view.id, view) for view in wanted], query.limit)


def _views(
    session: Session, statement: Select[TrajectoryGroup], after: str | None
) -> Generator[TrajectoryView, None, None]:
    """Every trajectory of the groups behind the cursor."""
    place = tuple_(TrajectoryGroup.step, TrajectoryGroup.group_id)
    skip_until = -1
    if after is not None:
        group, skip_until = _find(session, after)
        statement = statement.where(place >= (group.step, group.group_id))
    ordered = statement.order_by(TrajectoryGroup.step, TrajectoryGroup.group_id)
    with closing(
        session.execute(without_arrays(ordered), execution_options={"yield_per": _GROUPS_PER_READ})
    ) as rows:
        for row in rows:
            first = skip_until + 1 if after is not None and _owns(row, after) else 0
            yield from (
                TrajectoryView(**_summary(row, index)) for index in range(first, len(row.outcomes))
            )


@router.get("/v1/trajectories/{trajectory_id}")
def get_trajectory(resources: Res, trajectory_id: str) -> TrajectoryDetail:
    """One trajectory with everything that is known of it."""
    with resources.database.begin() as session:
        row, index = _find(session, trajectory_id)
        model_path = get_job(session, row.job_id).model_path
    group = row.payload["group"]
    trajectory = group["trajectories"][index]
    context = {name: group[name] for name in ("prompt_ids", "block_size", "mask_token_id")}
    prompt = token_texts(model_path, group["prompt_ids"])
    texts = {
        "prompt": None if prompt is None else "".join(prompt),
        "tokens": token_texts(model_path, trajectory["token_ids"]),
    }
    return TrajectoryDetail(**{**trajectory, **context, **texts, **_summary(row, index)})


def _find(session: Session, trajectory_id: str) -> tuple[TrajectoryGroup, int]:
    """The group of a trajectory, and its index there; ids of trajectories are made of both."""
    name, _, index = trajectory_id.removeprefix("traj_").rpartition("_")
    row = session.get(TrajectoryGroup, f"grp_{name}")
    if row is None or not index.isdecimal() or int(index) >= len(row.outcomes):
        raise PlatformError(
            "not_found",
            f"There is no trajectory {trajectory_id!r}, or it was not kept.",
            hint="rl.logged_groups_per_step says how many groups of a step are kept.",
        )
    return row, int(index)


def _owns(row: GroupRow, trajectory_id: str) -> bool:
    return trajectory_id.removeprefix("traj_").rpartition("_")[0] == row.group_id.removeprefix(
        "grp_"
    )


def _summary(row: GroupRow, index: int) -> dict[str, Any]:
    group = row.payload["group"]
    trajectory = group["trajectories"][index]
    verdict = trajectory.get("verdict") or {}
    rewards = verdict.get("rewards") or {}
    advantages = row.payload.get("advantages") or []
    copied = (
        "response_index",
        "text",
        "visible_len",
        "num_steps",
        "num_forwards",
        "finish_reason",
        "weight_version",
    )
    return {
        **{name: trajectory[name] for name in copied},
        "id": trajectory["trajectory_id"],
        "created_at": unix(row.created_at),
        "job_id": row.job_id,
        "attempt": row.attempt,
        "step": row.step,
        "group_id": row.group_id,
        "purpose": row.purpose,
        "disposition": row.disposition,
        "outcome": verdict.get("outcome"),
        "reward": _reward(row.payload, index, rewards),
        "rewards": rewards,
        "advantage": advantages[index] if index < len(advantages) else None,
        "gold": group["gold"],
    }


def _reward(payload: Mapping[str, Any], index: int, rewards: Mapping[str, float]) -> float | None:
    """The weighted sum that the learner used; of evaluations, which weigh nothing, the plain sum."""
    stated: list[float | None] | None = payload.get("rewards")
    if stated is not None:
        return stated[index]
    return sum(rewards.values()) if rewards else None
