"""The forecast of a job that is not submitted: rows, length, room, and a probe of its prompts if a
replica is free.
"""

import json
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Final, Literal

import psutil
from pydantic import BaseModel
from sqlalchemy import select

from services.api.db.job_tables import ServiceLease
from services.api.db.paces import Pace, earlier_pace
from services.api.domain.access import Caller
from services.api.domain.activations import Shape, activation_bytes, row_tokens
from services.api.domain.forecast import (
    Probe,
    Room,
    does_not_fit,
    objections,
    room,
    seconds_of,
    steps_of,
)
from services.api.http.envelope import ProblemBody
from services.api.http.resources import Resources
from services.api.http.sample_lengths import Lengths, length_problems, measure
from services.api.http.submission import FileUse, Submission
from services.common.data.rows import FileReport, Row, check_file, iter_rows
from services.common.data.turns import messages_of
from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.job_spec import JobSpec
from services.common.pb.dirl.v1 import reward_pb2, rollout_pb2, types_pb2
from services.common.rpc.security import is_loopback

_GPU: Final = Path("/dev/nvidiactl")
_PROBED_PROMPTS: Final = 4
_MOST_GENERATIONS: Final = 4


class FileForecast(BaseModel):
    """What a file holds."""

    rows: int
    sft_rows: int
    """Rows with a completion."""
    rl_rows: int
    """Rows with a gold answer."""
    longest_prompt_chars: int
    longest_completion_chars: int
    longest_prompt_tokens: int | None
    """Without what a chat template adds; null when the model has no tokenizer to measure with."""
    longest_sample_tokens: int | None
    """Prompt with its completion, or with the longest response that rollouts may give."""
    rows_too_long: int | None
    """Of the file's 256 longest rows: beyond prompt.max_prompt_tokens or trainer.seq_len, so that
    they are dropped.
    """


class ProbeForecast(BaseModel):
    """What the base model did with some of the prompts."""

    prompts: int
    generations: int
    zero_variance_rate: float
    all_correct: int
    all_wrong: int


class JobForecast(BaseModel):
    """What can be said of a job before it runs."""

    object: Literal["job.forecast"] = "job.forecast"
    accepted: bool
    """False when the job cannot fit or cannot learn; `problems` say why."""
    problems: list[ProblemBody]
    spec: dict[str, Any]
    """The job spec with all defaults."""
    files: dict[str, FileForecast]
    steps: dict[str, int]
    """Optimizer steps by stage."""
    parameters: int
    memory_bytes: int
    """At least: weights, gradients and optimizer state."""
    activation_bytes: int | None
    """What a training pass takes on top, by an estimate; null when the model's shape or its
    tokenizer is not known.
    """
    disk_bytes: int
    """Of the checkpoints that are kept at once."""
    disk_free_bytes: int
    seconds: float | None
    """Of all steps, at the pace of an earlier job; null without one, and without reinforcement or
    supervised steps.
    """
    seconds_from: str | None
    """Job whose pace it is: the newest of this model and method that did a few steps, or else of
    another model.
    """
    seconds_are_rough: bool
    """That job had another model: its pace was scaled by the number of parameters, which small
    models do not follow.
    """
    probe: ProbeForecast | None
    probe_skipped: str | None
    """Why the prompts were not tried."""


def forecast(resources: Resources, caller: Caller, submission: Submission) -> JobForecast:
    """The forecast of a submission that is sound in itself."""
    spec = submission.spec
    reports = {use.file: check_file(use.path) for use in submission.uses}
    lengths = {use.file: _lengths(use, submission) for use in submission.uses}
    needed = _room(resources, submission, lengths.values())
    probe, skipped = _probe(resources, submission)
    problems = [*objections(needed, probe, spec), *_length_problems(submission, reports, lengths)]
    steps = steps_of(
        spec, sum(reports[use.file].sft_rows for use in submission.uses if use.needs == "sft")
    )
    pace = _pace(resources, caller, submission, needed.parameters) if any(steps.values()) else None
    return JobForecast(
        accepted=not problems,
        problems=[ProblemBody(path=problem.path, message=problem.message) for problem in problems],
        spec=spec.model_dump(mode="json"),
        files={name: _file(report, lengths[name]) for name, report in reports.items()},
        steps=steps,
        parameters=needed.parameters,
        memory_bytes=needed.memory_bytes,
        activation_bytes=needed.activation_bytes,
        disk_bytes=needed.disk_bytes,
        disk_free_bytes=needed.disk_free_bytes,
        seconds=None if pace is None else _seconds(spec, pace, steps),
        seconds_from=None if pace is None else pace.job_id,
        seconds_are_rough=pace is not None and pace.model_path != str(submission.model_path),
        probe=None if probe is None else _probe_view(probe),
        probe_skipped=skipped,
    )


def require_room(resources: Resources, submission: Submission) -> None:
    """Refuse what the machines cannot hold: PlatformError("preflight_failed")."""
    if problems := does_not_fit(_room(resources, submission, ()), submission.spec):
        raise ProblemsError("preflight_failed", "The job cannot be accepted", list(problems))


def require_prospects(resources: Resources, caller: Caller, submission: Submission) -> None:
    """Refuse what the forecast speaks against: PlatformError("preflight_failed")."""
    found = forecast(resources, caller, submission)
    if not found.accepted:
        problems = [Problem(problem.path, problem.message) for problem in found.problems]
        raise ProblemsError("preflight_failed", "The forecast speaks against the job", problems)


def _room(resources: Resources, submission: Submission, lengths: Iterable[Lengths | None]) -> Room:
    resources.data_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(resources.data_dir).free
    activations = _activations(
        submission, [found.longest_sample for found in lengths if found is not None]
    )
    return room(
        _parameters(submission.model_path),
        activations,
        submission.spec,
        _trainer_memory(resources),
        free,
    )


def _activations(submission: Submission, longest_samples: Sequence[int]) -> int | None:
    config = submission.model_path / "config.json"
    shape = Shape.of(json.loads(config.read_text())) if config.is_file() else None
    if shape is None or not longest_samples:
        return None
    return activation_bytes(
        shape, submission.spec, row_tokens(submission.spec, max(longest_samples))
    )


def _lengths(use: FileUse, submission: Submission) -> Lengths | None:
    return measure(
        use.path, submission.model_path, submission.spec, learns_completions=use.needs == "sft"
    )


def _length_problems(
    submission: Submission, reports: Mapping[str, FileReport], lengths: Mapping[str, Lengths | None]
) -> Iterator[Problem]:
    for use in submission.uses:
        found = lengths[use.file]
        if found is not None:
            yield from length_problems(use.param, found, reports[use.file].rows)


def _pace(
    resources: Resources, caller: Caller, submission: Submission, parameters: int
) -> Pace | None:
    """An earlier job's; of one with another model scaled by its parameters, if that is still there
    to be compared.
    """
    with resources.database.begin() as session:
        pace = earlier_pace(
            session, caller.project, str(submission.model_path), submission.spec.method.type
        )
    if pace is None or pace.model_path == str(submission.model_path):
        return pace
    theirs = _parameters(Path(pace.model_path))
    return replace(pace, step_s=pace.step_s * parameters / theirs) if theirs else None


def _seconds(spec: JobSpec, pace: Pace, steps: Mapping[str, int]) -> float:
    return seconds_of(spec, sum(steps.values()), JobSpec.model_validate(pace.spec), pace.step_s)


def _file(report: FileReport, lengths: Lengths | None) -> FileForecast:
    return FileForecast(
        rows=report.rows,
        sft_rows=report.sft_rows,
        rl_rows=report.rl_rows,
        longest_prompt_chars=report.longest_prompt_chars,
        longest_completion_chars=report.longest_completion_chars,
        longest_prompt_tokens=None if lengths is None else lengths.longest_prompt,
        longest_sample_tokens=None if lengths is None else lengths.longest_sample,
        rows_too_long=None if lengths is None else lengths.too_long,
    )


def _probe_view(probe: Probe) -> ProbeForecast:
    return ProbeForecast(
        prompts=probe.prompts,
        generations=probe.generations,
        zero_variance_rate=probe.zero_variance_rate,
        all_correct=probe.correct,
        all_wrong=probe.wrong,
    )


def _trainer_memory(resources: Resources) -> int | None:
    """Of this machine, when the trainers are on it and compute in it."""
    local = all(is_loopback(address) for address in resources.settings.trainer_addresses)
    return int(psutil.virtual_memory().total) if local and not _GPU.exists() else None


def _parameters(model: Path) -> int:
    """Numbers in the model's safetensors files, by their headers."""
    return sum(_numbers_in(path) for path in sorted(model.glob("*.safetensors")))


def _numbers_in(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if length > path.stat().st_size:
            raise PlatformError(
                "model_invalid",
                f"{path} is no safetensors file: its header would be longer than it.",
            )
        header = json.loads(file.read(length))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for extent in tensor["shape"]:
                size *= extent
            total += size
    return total


def _probe(resources: Resources, submission: Submission) -> tuple[Probe | None, str | None]:
    """What the base model does with the first prompts, or why nobody asked it."""
    spec = submission.spec
    if spec.method.stages[0] != "rl":
        return (
            None,
            "The job does not begin with reinforcement learning: its policy is not the base model.",
        )
    try:
        rows = _probed_rows(submission)
        replica = free_replica(resources)
        generations = min(_MOST_GENERATIONS, spec.rl.num_generations)
        groups = [_outcomes(resources, replica, submission, row, generations) for row in rows]
    except PlatformError as error:
        return None, error.message
    correct = sum(all(group) for group in groups)
    wrong = sum(not any(group) for group in groups)
    return Probe(len(groups), generations, correct, wrong), None


def _probed_rows(submission: Submission) -> list[Row]:
    """Rows of every file that the stage trains on, by turns."""
    files = [iter_rows(use.path) for use in submission.uses if use.needs == "rl"]
    turns = (row for turn in zip_longest(*files) for row in turn if row is not None)
    return list(islice(turns, _PROBED_PROMPTS))


def free_replica(resources: Resources) -> str:
    """A replica that no job has; raises PlatformError("busy")."""
    fleet = resources.fleet
    with resources.database.begin() as session:
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


def _outcomes(
    resources: Resources, replica: str, submission: Submission, row: Row, generations: int
) -> Sequence[bool]:
    """Whether each response to the row's prompt was correct."""
    spec = submission.spec
    items = []
    for index in range(generations):
        pieces = list(
            resources.fleet.generate(replica, _request(submission, row, spec.seed + index))
        )
        text, last = "".join(piece.text for piece in pieces), pieces[-1]
        items.append(
            reward_pb2.VerifyItem(
                item_id=f"{row.row_id}-{index}",
                gold=row.answer or "",
                response=text,
                finish_reason=last.finish_reason,
                num_tokens=last.completion_tokens,
                num_steps=last.num_steps,
                max_new_tokens=spec.sampling.max_new_tokens,
            )
        )
    verdicts = resources.fleet.verify(items, spec.reward.timeout_s)
    return [verdict.outcome == types_pb2.OUTCOME_CORRECT for verdict in verdicts]


def _request(submission: Submission, row: Row, seed: int) -> rollout_pb2.GenerateRequest:
    spec: JobSpec = submission.spec
    turns = messages_of(row, spec.prompt)
    return rollout_pb2.GenerateRequest(
        model_path=str(submission.model_path),
        messages=[
            rollout_pb2.ChatMessage(role=turn["role"], content=turn["content"]) for turn in turns
        ],
        max_new_tokens=spec.sampling.max_new_tokens,
        temperature=spec.sampling.temperature,
        top_p=spec.sampling.top_p,
        confidence_threshold=spec.diffusion.confidence_threshold,
        seed=seed,
    )
