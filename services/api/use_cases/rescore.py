"""Grading stored trajectories again: which verdicts flip, and what the advantages would have been."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from sqlalchemy import select

from services.api.db.database import Database
from services.api.db.jobs import get_job
from services.api.db.record_tables import TrajectoryGroup
from services.api.schemas.graders import Flip, RescoreQuery, RescoreReport, VerdictView
from services.api.use_cases.control_plane import ControlPlane
from services.common.advantages import MIN_SCORED, group_advantages
from services.common.codec import pack_int32, verdict_from_pb
from services.common.grader_spec import (
    GraderSpec,
    grader_text,
    max_grading_seconds,
    parse_graders,
)
from services.common.job_spec import JobSpec, parse_spec
from services.common.pb.dirl.v1 import reward_pb2
from services.common.rewards import Scores, compute_rewards, compute_signals
from services.common.trajectory import Purpose, Verdict

_GROUPS_AT_A_TIME: Final = 20
_MARGIN_S: Final = 10.0
_MAX_LISTED: Final = 1000
_PROFILES: Final = {Purpose.TRAIN.value: "rl", Purpose.EVAL.value: "eval"}


class _Tally:
    """Counts over all groups."""

    def __init__(self) -> None:
        self.groups = self.trajectories = self.unverifiable = self.rewards_changed = 0
        self.changes: list[float] = []
        self.flips: list[Flip] = []
        self.flipped = 0

    def add(self, flip: Flip) -> None:
        """Count one trajectory."""
        before, now = flip.before, flip.now
        self.trajectories += 1
        self.unverifiable += now.reward is None
        self.rewards_changed += before.reward != now.reward
        if before.advantage is not None and now.advantage is not None:
            self.changes.append(abs(now.advantage - before.advantage))
        if before.outcome != now.outcome:
            self.flipped += 1
            self.flips += [flip] * (len(self.flips) < _MAX_LISTED)


def rescore_job(plane: ControlPlane, job_id: str, query: RescoreQuery) -> RescoreReport:
    """Grade the newest stored groups of a job again, changing nothing; raises PlatformError.

    No transaction is open while the reward service works.
    """
    with plane.database.begin() as session:
        spec = parse_spec(get_job(session, job_id).spec)
        statement = select(TrajectoryGroup.group_id).where(TrajectoryGroup.job_id == job_id)
        if query.step is not None:
            statement = statement.where(TrajectoryGroup.step == query.step)
        newest = statement.order_by(TrajectoryGroup.step.desc(), TrajectoryGroup.group_id).limit(
            query.max_groups
        )
        group_ids = list(session.scalars(newest))
    graders = spec.reward.graders if query.graders is None else parse_graders(query.graders)
    tally = _Tally()
    for groups in _read_batches(plane.database, group_ids):
        for group, verdicts in zip(
            groups, _grade(plane, groups, spec, graders, query), strict=True
        ):
            tally.groups += 1
            for flip in _compare(group, verdicts, spec, graders):
                tally.add(flip)
    changed = [change for change in tally.changes if change > 0]
    return RescoreReport(
        job_id=job_id,
        groups=tally.groups,
        trajectories=tally.trajectories,
        flipped=tally.flipped,
        unverifiable=tally.unverifiable,
        rewards_changed=tally.rewards_changed,
        advantages_changed=len(changed),
        mean_abs_advantage_change=sum(tally.changes) / len(tally.changes)
        if tally.changes
        else None,
        flips=tally.flips,
    )


def _read_batches(database: Database, group_ids: Sequence[str]) -> Iterator[list[TrajectoryGroup]]:
    """The groups, a few at a time; one that was pruned meanwhile is left out."""
    for start in range(0, len(group_ids), _GROUPS_AT_A_TIME):
        wanted = group_ids[start : start + _GROUPS_AT_A_TIME]
        with database.begin() as session:
            found = {group_id: session.get(TrajectoryGroup, group_id) for group_id in wanted}
        yield [group for group in found.values() if group is not None]


def _grade(
    plane: ControlPlane,
    groups: Sequence[TrajectoryGroup],
    spec: JobSpec,
    graders: Sequence[GraderSpec],
    query: RescoreQuery,
) -> Iterator[list[Verdict]]:
    """Yield the new verdicts of each group, one call a group."""
    for group in groups:
        trajectories = group.payload["group"]["trajectories"]
        request = reward_pb2.VerifyRequest(
            items=[_to_item(group, trajectory, spec) for trajectory in trajectories],
            graders=[grader_text(grader) for grader in graders],
            profile=query.profile or _PROFILES[group.purpose],
            timeout_s=spec.reward.timeout_s,
            rows=[json.dumps(group.payload["group"].get("row") or {})],
        )
        timeout_s = (
            spec.reward.timeout_s * len(trajectories)
            + max_grading_seconds(tuple(request.graders), len(trajectories))
            + _MARGIN_S
        )
        response = plane.fleet.grade(request, timeout_s)
        yield [verdict_from_pb(message) for message in response.verdicts]


def _to_item(
    group: TrajectoryGroup, trajectory: dict[str, Any], spec: JobSpec
) -> reward_pb2.VerifyItem:
    stored = group.payload["group"]
    evaluated = group.purpose == Purpose.EVAL.value
    return reward_pb2.VerifyItem(
        item_id=trajectory["trajectory_id"],
        reference_answer=stored["reference_answer"],
        answer_type=stored.get("answer_type", ""),
        response=trajectory["text"],
        finish_reason=trajectory["finish_reason"],
        num_tokens=trajectory["visible_len"],
        num_steps=trajectory["num_steps"],
        max_new_tokens=(spec.eval.max_new_tokens if evaluated else None)
        or spec.sampling.max_new_tokens,
        unmask_step=pack_int32(
            np.array(trajectory["unmask_step"][: trajectory["visible_len"]], np.int32)
        ),
        row=0,
    )


def _compare(
    group: TrajectoryGroup,
    verdicts: Sequence[Verdict],
    spec: JobSpec,
    graders: Sequence[GraderSpec],
) -> Iterator[Flip]:
    trajectories = group.payload["group"]["trajectories"]
    scores = [verdict.rewards if verdict.outcome.is_scored else None for verdict in verdicts]
    rewards = compute_rewards(scores, graders)
    reward = spec.reward.model_copy(update={"graders": tuple(graders)})
    advantages = _compute_advantages(group, compute_signals(scores, reward), spec)
    old_rewards = group.payload.get("rewards") or compute_rewards(
        [_read_stored_scores(trajectory) for trajectory in trajectories], spec.reward.graders
    )
    old_advantages = group.payload.get("advantages") or [None] * len(trajectories)
    for place, (trajectory, verdict) in enumerate(zip(trajectories, verdicts, strict=True)):
        old = trajectory.get("verdict") or {}
        yield Flip(
            trajectory_id=trajectory["trajectory_id"],
            group_id=group.group_id,
            step=group.step,
            reference_answer=group.payload["group"]["reference_answer"],
            extracted=verdict.extracted,
            before=VerdictView(
                outcome=old.get("outcome"),
                reason=old.get("reason", ""),
                reward=old_rewards[place],
                advantage=old_advantages[place],
                verifier_version=old.get("verifier_version", ""),
            ),
            now=VerdictView(
                outcome=verdict.outcome.value,
                reason=verdict.reason,
                reward=rewards[place],
                advantage=advantages[place],
                verifier_version=verdict.verifier_version,
            ),
        )


def _compute_advantages(
    group: TrajectoryGroup, signals: Sequence[float | None], spec: JobSpec
) -> list[float | None]:
    """Advantages as the learner would compute them; None for evaluations and for groups it would not
    have trained on.
    """
    scored = sum(signal is not None for signal in signals)
    if group.purpose != Purpose.TRAIN.value or scored < MIN_SCORED:
        return [None] * len(signals)
    return group_advantages(signals, spec.rl.advantage)


def _read_stored_scores(trajectory: dict[str, Any]) -> Scores | None:
    return (trajectory.get("verdict") or {}).get("rewards") or None
