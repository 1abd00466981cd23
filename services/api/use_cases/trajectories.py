"""Stored groups of trajectories: selected, listed and shown."""

from collections.abc import Generator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

from sqlalchemy import Select, any_, func, literal, select, tuple_
from sqlalchemy.orm import Session

from services.api.adapters.tokenizers import token_texts, whole_text
from services.api.db.jobs import get_job
from services.api.db.record_tables import TrajectoryGroup
from services.api.db.trajectories import GroupRow, without_arrays
from services.api.schemas.trajectories import (
    GroupQuery,
    GroupView,
    TrajectoryDetail,
    TrajectoryQuery,
    TrajectorySelection,
    TrajectoryView,
)
from services.api.use_cases.control_plane import ControlPlane
from services.common.errors import PlatformError
from services.common.trajectory import Purpose

_GROUPS_PER_READ = 10


def list_groups(plane: ControlPlane, job_id: str, query: GroupQuery) -> list[GroupView]:
    """Groups that were kept, newest step first; one more than the limit when there are more."""
    place = tuple_(TrajectoryGroup.step, TrajectoryGroup.group_id)
    statement = select_groups(select(TrajectoryGroup), job_id, query)
    if query.mixed:
        outcomes = TrajectoryGroup.outcomes
        others = func.array_remove(outcomes, outcomes[1])
        statement = statement.where(func.cardinality(others) > 0)
    with plane.database.begin() as session:
        job = get_job(session, job_id)
        if query.after is not None:
            last = session.get(TrajectoryGroup, query.after)
            if last is None:
                raise PlatformError(
                    "not_found",
                    f"after={query.after!r} is not a group of this job.",
                    param="after",
                )
            statement = statement.where(place < (last.step, last.group_id))
        ordered = statement.order_by(TrajectoryGroup.step.desc(), TrajectoryGroup.group_id.desc())
        rows = session.execute(without_arrays(ordered.limit(query.limit + 1))).all()
    return [_to_group_view(row, job.model_path) for row in rows]


def list_trajectories(
    plane: ControlPlane, job_id: str, query: TrajectoryQuery
) -> list[TrajectoryView]:
    """Trajectories that were kept, by step, group and index; one more than the limit when there are
    more.
    """
    statement = select_groups(select(TrajectoryGroup), job_id, query)
    with plane.database.begin() as session:
        get_job(session, job_id)
        with closing(_iter_views(session, statement, query.after)) as views:
            # A group is selected when one of its trajectories matches; the others are left out here.
            matching = (view for view in views if is_selected(view.model_dump(), query))
            return list(islice(matching, query.limit + 1))


def read_trajectory(plane: ControlPlane, trajectory_id: str) -> TrajectoryDetail:
    """One trajectory with everything that is stored of it; raises PlatformError("not_found")."""
    with plane.database.begin() as session:
        row, index = _find_group(session, trajectory_id)
        model_path = get_job(session, row.job_id).model_path
    group = row.payload["group"]
    trajectory = group["trajectories"][index]
    context = {name: group[name] for name in ("prompt_ids", "block_size", "mask_token_id")}
    context["row"] = group.get("row")
    prompt = token_texts(model_path, group["prompt_ids"])
    texts = {
        "prompt": None if prompt is None else "".join(prompt),
        "tokens": token_texts(model_path, trajectory["token_ids"]),
    }
    return TrajectoryDetail(**{**trajectory, **context, **texts, **summarize(row, index)})


def select_groups(
    statement: Select[TrajectoryGroup], job_id: str, query: GroupQuery | TrajectorySelection
) -> Select[TrajectoryGroup]:
    """Groups of a job in which some trajectory has what the query wants."""
    table = TrajectoryGroup
    statement = statement.where(table.job_id == job_id)
    if query.step is not None:
        statement = statement.where(table.step == query.step)
    if query.group_id is not None:
        statement = statement.where(table.group_id == query.group_id)
    if query.purpose is not None:
        statement = statement.where(table.purpose == query.purpose)
    if query.outcome is not None:
        statement = statement.where(literal(query.outcome.value) == any_(table.outcomes))
    if isinstance(query, TrajectorySelection) and query.min_reward is not None:
        statement = statement.where(table.max_reward >= query.min_reward)
    return statement


def is_selected(summary: Mapping[str, Any], selection: TrajectorySelection) -> bool:
    """Whether one trajectory of a selected group has what the query wants."""
    reward = summary["reward"]
    return (
        selection.min_reward is None or (reward is not None and reward >= selection.min_reward)
    ) and (selection.outcome is None or summary["outcome"] == selection.outcome)


def _iter_views(
    session: Session, statement: Select[TrajectoryGroup], after: str | None
) -> Generator[TrajectoryView, None, None]:
    """Every trajectory of the groups behind the cursor."""
    place = tuple_(TrajectoryGroup.step, TrajectoryGroup.group_id)
    cursor_group, skip_until = None, -1
    if after is not None:
        group, skip_until = _find_group(session, after)
        cursor_group = group.group_id
        statement = statement.where(place >= (group.step, group.group_id))
    ordered = statement.order_by(TrajectoryGroup.step, TrajectoryGroup.group_id)
    with closing(
        session.execute(without_arrays(ordered), execution_options={"yield_per": _GROUPS_PER_READ})
    ) as rows:
        for row in rows:
            first = skip_until + 1 if row.group_id == cursor_group else 0
            yield from (
                TrajectoryView(**summarize(row, index)) for index in range(first, len(row.outcomes))
            )


def _find_group(session: Session, trajectory_id: str) -> tuple[TrajectoryGroup, int]:
    """The group of a trajectory, and its index there; ids of trajectories are made of both."""
    name, _, index = trajectory_id.removeprefix("traj_").rpartition("_")
    row = session.get(TrajectoryGroup, f"grp_{name}")
    if row is None or not index.isdecimal() or int(index) >= len(row.outcomes):
        raise PlatformError(
            "not_found",
            f"No trajectory with id {trajectory_id!r}: it does not exist or was not kept.",
            hint="rl.logged_groups_per_step says how many groups of a step are kept.",
        )
    return row, int(index)


def summarize(row: GroupRow, index: int) -> dict[str, Any]:
    """The fields of a TrajectoryView."""
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
        "created_at": row.created_at,
        "job_id": row.job_id,
        "attempt": row.attempt,
        "step": row.step,
        "group_id": row.group_id,
        "purpose": row.purpose,
        "disposition": row.disposition,
        "outcome": verdict.get("outcome"),
        "reward": _read_reward(row.payload, index, rewards),
        "rewards": rewards,
        "advantage": advantages[index] if index < len(advantages) else None,
        "reference_answer": group["reference_answer"],
    }


def _read_reward(
    payload: Mapping[str, Any], index: int, rewards: Mapping[str, float]
) -> float | None:
    """The weighted sum that the learner used; of evaluations, which weigh nothing, the plain sum."""
    stated: list[float | None] | None = payload.get("rewards")
    if stated is not None:
        return stated[index]
    return sum(rewards.values()) if rewards else None


def _to_group_view(row: GroupRow, model_path: str) -> GroupView:
    group = row.payload["group"]
    trajectories = group["trajectories"]
    scores = [(each.get("verdict") or {}).get("rewards") or {} for each in trajectories]
    staleness = None
    if row.purpose == Purpose.TRAIN:
        # Step n trains the weights of version n - 1.
        staleness = row.step - 1 - min(each["weight_version"] for each in trajectories)
    return GroupView(
        id=row.group_id,
        created_at=row.created_at,
        job_id=row.job_id,
        attempt=row.attempt,
        step=row.step,
        purpose=row.purpose,
        disposition=row.disposition,
        prompt=whole_text(model_path, group["prompt_ids"]),
        reference_answer=group["reference_answer"],
        trajectory_ids=[trajectory["trajectory_id"] for trajectory in trajectories],
        outcomes=row.outcomes,
        # Groups of earlier releases have no rewards where they were only evaluated.
        rewards=row.payload.get("rewards")
        or [sum(each.values()) if each else None for each in scores],
        staleness=staleness,
        replica=group.get("replica"),
        rollout_s=group.get("rollout_s"),
        reward_s=group.get("reward_s"),
    )
