"""Estimates of a job before it runs: rows, length, memory, disk, and trial rollouts if a replica is
free.
"""

import json
import math
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Final

import psutil
from sqlalchemy import select

from services.api.db.job_tables import ServiceLease
from services.api.db.paces import Pace, earlier_pace
from services.api.domain.access import Caller
from services.api.domain.activations import Shape, activation_bytes, row_tokens
from services.api.domain.estimate import (
    Probe,
    ResourceEstimate,
    count_steps,
    estimate_resources,
    estimate_seconds,
    find_misfits,
    find_objections,
)
from services.api.schemas.envelope import ProblemBody
from services.api.schemas.estimates import FileEstimate, JobEstimate, ProbeEstimate
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.job_checks import CheckedSpec, check_spec
from services.api.use_cases.sample_lengths import Lengths, find_length_problems, measure_lengths
from services.common.codec import verdict_from_pb
from services.common.data.rows import FileReport, Row, check_file, iter_rows
from services.common.data.turns import messages_of
from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.grader_spec import grader_text, max_grading_seconds, uses_correctness
from services.common.job_spec import JobSpec
from services.common.pb.dirl.v1 import reward_pb2, rollout_pb2
from services.common.rewards import compute_rewards, compute_signals, has_signal
from services.common.rpc.security import is_loopback
from services.common.trajectory import Outcome, Verdict

UseKey = tuple[str, str]
"""Key of the spec, and the file that it names."""
_GPU: Final = Path("/dev/nvidiactl")
_PROBED_PROMPTS: Final = 4
_MOST_GENERATIONS: Final = 4
_GRADING_MARGIN_S: Final = 10.0


def estimate_submission(plane: ControlPlane, caller: Caller, body: Any) -> JobEstimate:
    """Check a spec as a submission would be, and estimate its job; nothing is stored."""
    return estimate_job(plane, caller, check_spec(plane, caller, body))


def estimate_job(plane: ControlPlane, caller: Caller, checked: CheckedSpec) -> JobEstimate:
    """Estimate a job whose spec was checked."""
    spec = checked.spec
    uses = {(use.param, use.file): use for use in checked.uses}
    reports = {key: check_file(use.path, use.reading) for key, use in uses.items()}
    lengths = {key: measure_lengths(use, checked.model_path, spec) for key, use in uses.items()}
    needed = _estimate_resources(plane, checked, lengths.values())
    probe, skipped = _probe_prompts(plane, checked)
    problems = [
        *find_objections(needed, probe, spec),
        *_find_length_problems(checked, reports, lengths),
    ]
    steps = count_steps(
        spec, sum(reports[key].sft_examples for key, use in uses.items() if use.needs == "sft")
    )
    pace = _find_pace(plane, caller, checked, needed.parameters) if any(steps.values()) else None
    seconds = None
    if pace is not None:
        earlier = JobSpec.model_validate(pace.spec)
        seconds = estimate_seconds(spec, sum(steps.values()), earlier, pace.step_s)
    return JobEstimate(
        accepted=not problems,
        problems=[ProblemBody(path=problem.path, message=problem.message) for problem in problems],
        spec=spec.model_dump(mode="json"),
        # The first use of a file counts: a split is reported by its training rows.
        files={key[1]: _to_file_estimate(reports[key], lengths[key]) for key in reversed(reports)},
        steps=steps,
        parameters=needed.parameters,
        memory_bytes=needed.memory_bytes,
        activation_bytes=needed.activation_bytes,
        disk_bytes=needed.disk_bytes,
        disk_free_bytes=needed.disk_free_bytes,
        seconds=seconds,
        seconds_from=None if pace is None else pace.job_id,
        seconds_are_rough=pace is not None and pace.model_path != str(checked.model_path),
        probe=None if probe is None else ProbeEstimate.model_validate(probe),
        probe_skipped=skipped,
    )


def require_fit(plane: ControlPlane, checked: CheckedSpec) -> None:
    """Raise ProblemsError("preflight_failed") for a job that the machines cannot hold."""
    if problems := find_misfits(_estimate_resources(plane, checked, ()), checked.spec):
        raise ProblemsError("preflight_failed", "The job cannot be accepted", list(problems))


def require_good_estimate(plane: ControlPlane, caller: Caller, checked: CheckedSpec) -> None:
    """Raise ProblemsError("preflight_failed") for a job whose estimate finds problems."""
    found = estimate_job(plane, caller, checked)
    if not found.accepted:
        problems = [Problem(problem.path, problem.message) for problem in found.problems]
        raise ProblemsError("preflight_failed", "The job cannot fit or cannot learn", problems)


def _estimate_resources(
    plane: ControlPlane, checked: CheckedSpec, lengths: Iterable[Lengths | None]
) -> ResourceEstimate:
    plane.data_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(plane.data_dir).free
    longest = max((found.longest_sample for found in lengths if found is not None), default=None)
    config = checked.model_path / "config.json"
    shape = Shape.of(json.loads(config.read_text())) if config.is_file() else None
    activations = None
    if shape is not None and longest is not None:
        activations = activation_bytes(shape, checked.spec, row_tokens(checked.spec, longest))
    # The memory of this machine says something only when the trainers run on it, without a GPU.
    local = all(is_loopback(address) for address in plane.settings.trainer_addresses)
    memory = int(psutil.virtual_memory().total) if local and not _GPU.exists() else None
    return estimate_resources(
        _count_parameters(checked.model_path),
        activations,
        checked.spec,
        memory,
        free,
    )


def _find_length_problems(
    checked: CheckedSpec,
    reports: Mapping[UseKey, FileReport],
    lengths: Mapping[UseKey, Lengths | None],
) -> Iterator[Problem]:
    for use in checked.uses:
        key = (use.param, use.file)
        if (found := lengths[key]) is not None:
            yield from find_length_problems(use.param, found, reports[key].rows)


def _find_pace(
    plane: ControlPlane, caller: Caller, checked: CheckedSpec, parameters: int
) -> Pace | None:
    """Pace of an earlier job, scaled by the parameters when it had another model; None when that
    model no longer exists.
    """
    with plane.database.begin() as session:
        pace = earlier_pace(
            session, caller.project, str(checked.model_path), checked.spec.method.type
        )
    if pace is None or pace.model_path == str(checked.model_path):
        return pace
    theirs = _count_parameters(Path(pace.model_path))
    return replace(pace, step_s=pace.step_s * parameters / theirs) if theirs else None


def _to_file_estimate(report: FileReport, lengths: Lengths | None) -> FileEstimate:
    return FileEstimate(
        rows=report.rows,
        sft_rows=report.sft_rows,
        rl_rows=report.rl_rows,
        longest_prompt_chars=report.longest_prompt_chars,
        longest_completion_chars=report.longest_completion_chars,
        longest_prompt_tokens=None if lengths is None else lengths.longest_prompt,
        longest_sample_tokens=None if lengths is None else lengths.longest_sample,
        rows_too_long=None if lengths is None else lengths.too_long,
    )


def _count_parameters(model: Path) -> int:
    """Numbers in the model's safetensors files, by their headers."""
    return sum(_count_numbers(path) for path in sorted(model.glob("*.safetensors")))


def _count_numbers(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if length > path.stat().st_size:
            raise PlatformError(
                "model_invalid",
                f"{path} is not a safetensors file: its header would be longer than the file.",
            )
        header = json.loads(file.read(length))
    return sum(
        math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
    )


def _probe_prompts(plane: ControlPlane, checked: CheckedSpec) -> tuple[Probe | None, str | None]:
    """Results of the base model on the first prompts, or why it was not asked."""
    spec = checked.spec
    if spec.method.stages[0] != "rl":
        return (
            None,
            "The job does not begin with reinforcement learning: its policy is not the base model.",
        )
    try:
        # By turns from every file that the stage trains on, so that no file of a mixture is left out.
        files = [iter_rows(use.path, use.reading) for use in checked.uses if use.needs == "rl"]
        turns = (row for turn in zip_longest(*files) for row in turn if row is not None)
        rows = list(islice(turns, _PROBED_PROMPTS))
        replica = find_free_replica(plane)
        generations = min(_MOST_GENERATIONS, spec.rl.num_generations)
        groups = [_grade_responses(plane, replica, checked, row, generations) for row in rows]
    except PlatformError as error:
        return None, error.message
    return _summarise(groups, generations, spec), None


def _summarise(groups: Sequence[Sequence[Verdict]], generations: int, spec: JobSpec) -> Probe:
    """What the graded responses say of the job: rewards, and correctness where a grader looks at it."""
    scores = [[v.rewards if v.outcome.is_scored else None for v in group] for group in groups]
    signals = [compute_signals(group, spec.reward) for group in scores]
    rewards = [
        reward
        for group in scores
        for reward in compute_rewards(group, spec.reward.graders)
        if reward is not None
    ]
    correct = [[v.outcome is Outcome.CORRECT for v in group] for group in groups]
    compared = uses_correctness(spec.reward.graders)
    return Probe(
        prompts=len(groups),
        generations=generations,
        zero_variance=sum(not has_signal(group, spec.rl.min_reward_std) for group in signals),
        reward_mean=sum(rewards) / len(rewards) if rewards else None,
        ungraded=tuple(v.reason for group in groups for v in group if not v.outcome.is_scored),
        all_correct=sum(map(all, correct)) if compared else None,
        all_wrong=sum(not any(group) for group in correct) if compared else None,
    )


def find_free_replica(plane: ControlPlane) -> str:
    """An idle replica that is not leased; raises PlatformError("busy")."""
    fleet = plane.fleet
    with plane.database.begin() as session:
        leased = set(session.scalars(select(ServiceLease.address)))
    statuses = fleet.ask_all(
        fleet.rollout_status, [address for address in fleet.replicas if address not in leased]
    )
    for address, status in statuses.items():
        if not isinstance(status, PlatformError) and status.state == "idle":
            return address
    raise PlatformError(
        "busy",
        f"None of the {len(fleet.replicas)} rollout replicas is free: {len(leased)} services are leased to jobs.",
        hint="Wait for a job's end, pause one, or add a replica (DIRL_ROLLOUT_ADDRESSES).",
    )


def _grade_responses(
    plane: ControlPlane, replica: str, checked: CheckedSpec, row: Row, generations: int
) -> Sequence[Verdict]:
    """Verdicts of the job's graders on responses to the row's prompt."""
    spec = checked.spec
    items = []
    for index in range(generations):
        pieces = list(plane.fleet.generate(replica, _to_request(checked, row, spec.seed + index)))
        text, last = "".join(piece.text for piece in pieces), pieces[-1]
        items.append(
            reward_pb2.VerifyItem(
                item_id=f"{row.row_id}-{index}",
                reference_answer=row.answer or "",
                response=text,
                finish_reason=last.finish_reason,
                num_tokens=last.completion_tokens,
                num_steps=last.num_steps,
                max_new_tokens=spec.sampling.max_new_tokens,
                answer_type=row.answer_type or "",
                row=0,
            )
        )
    request = reward_pb2.VerifyRequest(
        items=items,
        graders=[grader_text(grader) for grader in spec.reward.graders],
        profile="rl",
        timeout_s=spec.reward.timeout_s,
        rows=[json.dumps(row.item)],
    )
    timeout_s = (
        spec.reward.timeout_s * len(items)
        + max_grading_seconds(tuple(request.graders), len(items))
        + _GRADING_MARGIN_S
    )
    response = plane.fleet.grade(request, timeout_s)
    return [verdict_from_pb(message) for message in response.verdicts]


def _to_request(checked: CheckedSpec, row: Row, seed: int) -> rollout_pb2.GenerateRequest:
    spec: JobSpec = checked.spec
    turns = messages_of(row.messages, spec.prompt)
    return rollout_pb2.GenerateRequest(
        model_path=str(checked.model_path),
        messages=[
            rollout_pb2.ChatMessage(role=turn["role"], content=turn["content"]) for turn in turns
        ],
        max_new_tokens=spec.sampling.max_new_tokens,
        temperature=spec.sampling.temperature,
        top_p=spec.sampling.top_p,
        confidence_threshold=spec.diffusion.confidence_threshold,
        seed=seed,
    )
