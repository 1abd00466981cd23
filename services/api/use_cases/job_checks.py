"""Checks of a job spec against what exists: files, models, replicas. Every problem is reported at
once, before the job is queued.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.api.adapters.environment_files import make_environment_file
from services.api.adapters.hub_files import find_hub_file
from services.api.db.job_tables import Job
from services.api.db.record_tables import RegisteredModel, StoredFile
from services.api.domain.access import Caller
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.reference_audit import find_reference_answer_problems
from services.common.data.reading import Reading
from services.common.data.rows import MAX_PROBLEMS_SHOWN, Needs, read_rows
from services.common.data.special_tokens import (
    SpecialTokens,
    find_special_token,
    read_special_tokens,
)
from services.common.environments.names import is_environment_name
from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.grader_spec import (
    grader_text,
    required_fields,
    row_checks,
    uses_correctness,
)
from services.common.hub_names import is_hub_name
from services.common.job_decoding import resolve_decoding
from services.common.job_spec import JobSpec, parse_spec
from services.common.model_card import ModelCard, read_model_card
from services.common.pb.dirl.v1 import reward_pb2
from services.common.telemetry.logs import get_logger

_FILE_ID: str = "file_"
_MODEL_ID: str = "model_"
_CHECK_TIMEOUT_S: Final = 10.0

log = get_logger()


@dataclass(frozen=True)
class FileUse:
    """A file that a stage reads."""

    param: str
    """Key of the spec that names it."""
    file: str
    """As the spec names it."""
    path: Path
    needs: Needs
    reading: Reading


@dataclass(frozen=True)
class CheckedSpec:
    """A spec that the installation can run, with what its names stand for."""

    spec: JobSpec
    model_path: Path
    card: ModelCard
    files: dict[str, str]
    """Path of every file that the spec names."""

    @property
    def uses(self) -> list[FileUse]:
        """Every use of a file by a stage."""
        return [
            FileUse(param, name, Path(self.files[name]), needs, _reading_of(self.spec, param, name))
            for param, name, needs in _list_uses(self.spec)
        ]

    @property
    def rollout_replicas(self) -> int:
        """Replicas that the job needs; 0 when it decodes nothing."""
        return count_replicas(self.spec)

    @property
    def max_sequence_tokens(self) -> int:
        """Longest prompt + response in tokens, rounded up to whole blocks as the engine does."""
        response = max(self.spec.sampling.max_new_tokens, self.spec.eval.max_new_tokens or 0)
        blocks = -(-(self.spec.prompt.max_prompt_tokens + response) // self.card.block_size) + 1
        return min(blocks * self.card.block_size, self.card.max_positions)


def check_spec(
    plane: ControlPlane, caller: Caller, body: Any, *, accepted: Job | None = None
) -> CheckedSpec:
    """Check a spec, which is parsed unless it was; raises PlatformError and ProblemsError with every problem found.

    `accepted` is a job whose files and model the caller may use because it was accepted with them:
    the parent of a fork, or the job itself when it is queued again. That they still exist is
    checked all the same.
    """
    spec = body if isinstance(body, JobSpec) else parse_spec(body)
    known = _KnownNames(caller, accepted)
    if paths := list(_find_server_paths(spec, known)):
        raise ProblemsError("permission_denied", "The job cannot be accepted", paths)
    problems: list[Problem] = []
    spec, downloaded = _pin_hub_files(plane, spec, known, problems)
    files, model_path = _look_up(plane, spec, known)
    files |= downloaded
    problems.extend(_make_environment_files(plane, spec, files))
    problems.extend(_find_missing(spec, files, model_path))
    card = None if model_path is None else _read_card(model_path, problems)
    special = None
    if card is not None and model_path is not None:
        special = read_special_tokens(model_path, card.mask_token_id, card.vocab_size)
        problems.extend(_find_contradictions(spec, card))
        problems.extend(_find_special_tokens_of_prompt(spec, special))
    problems.extend(_find_row_problems(plane, spec, files, special))
    problems.extend(_find_missing_replicas(spec, len(plane.settings.rollout_addresses)))
    problems.extend(_find_grader_problems(plane, spec))
    if problems or card is None or model_path is None:
        raise ProblemsError("spec_invalid", "The job cannot be accepted", problems)
    found = {name: str(path) for name, path in files.items() if path is not None}
    return CheckedSpec(spec, model_path, card, found)


def count_replicas(spec: JobSpec) -> int:
    """Rollout replicas that a job with this spec needs."""
    return spec.resources.rollout_replicas if spec.needs_rollout() else 0


@dataclass(frozen=True)
class _KnownNames:
    """Which names of files and models the caller may use."""

    caller: Caller
    accepted: Job | None

    def includes(self, name: str) -> bool:
        """Whether an accepted job uses the name already."""
        job = self.accepted
        return job is not None and (name in job.files or name == job.model)

    def may_use(self, name: str, row: StoredFile | RegisteredModel) -> bool:
        return self.caller.owns(row.project) or self.includes(name)


def _find_server_paths(spec: JobSpec, known: _KnownNames) -> Iterator[Problem]:
    """Paths of the server: a caller who is not an admin must not have them read."""
    if known.caller.is_admin:
        return
    rule = (
        "is a path on the server, which needs a key with the scope admin; upload the file or export"
        " the model, and give its id"
    )
    params = {name: param for param, name, _ in _list_uses(spec)}
    named = [("model", spec.model, _MODEL_ID)]
    named += [
        (params.get(name, "a file that no stage reads"), name, _FILE_ID) for name in spec.files()
    ]
    for param, name, prefix in named:
        if (
            not name.startswith(prefix)
            and not known.includes(name)
            and not is_environment_name(name)
            and not is_hub_name(name)
        ):
            yield Problem(param, f"{name!r} {rule}")


def _look_up(
    plane: ControlPlane, spec: JobSpec, known: _KnownNames
) -> tuple[dict[str, Path | None], Path | None]:
    """Paths of the spec's files and model; None for an id that is not known."""
    files: dict[str, Path | None] = {}
    model: Path | None = Path(spec.model)
    with plane.database.begin() as session:
        for name in spec.files():
            if is_environment_name(name) or is_hub_name(name):
                files[name] = None
                continue
            if not name.startswith(_FILE_ID):
                files[name] = Path(name)
                continue
            file = session.get(StoredFile, name)
            files[name] = Path(file.path) if file and known.may_use(name, file) else None
        if spec.model.startswith(_MODEL_ID):
            row = session.get(RegisteredModel, spec.model)
            model = Path(row.path) if row and known.may_use(spec.model, row) else None
    return files, model


def _pin_hub_files(
    plane: ControlPlane, spec: JobSpec, known: _KnownNames, problems: list[Problem]
) -> tuple[JobSpec, dict[str, Path | None]]:
    """Download the data sets of the hub; return the spec with their commits, and their paths."""
    names: dict[str, str] = {}
    paths: dict[str, Path | None] = {}
    for name in filter(is_hub_name, spec.files()):
        may_use_token = known.caller.is_admin or known.includes(name)
        try:
            file = find_hub_file(plane.data_dir / "hub", name, may_use_token=may_use_token)
        except ValueError as error:
            params = [param for param, used, _ in _list_uses(spec) if used == name]
            problems.append(Problem(params[0] if params else "training_file", str(error)))
            continue
        names[name] = str(file.name)
        paths[names[name]] = file.path
    return (spec.with_files(names) if names else spec), paths


def _make_environment_files(
    plane: ControlPlane, spec: JobSpec, files: dict[str, Path | None]
) -> Iterator[Problem]:
    """Make the rows of environments, and add their paths."""
    for name in filter(is_environment_name, files):
        try:
            files[name] = make_environment_file(plane.data_dir / "environments", name)
        except ValueError as error:
            params = [param for param, used, _ in _list_uses(spec) if used == name]
            yield Problem(params[0] if params else "training_file", str(error))


def _find_missing(
    spec: JobSpec, files: Mapping[str, Path | None], model_path: Path | None
) -> Iterator[Problem]:
    if model_path is None:
        yield Problem("model", f"No model with id {spec.model}; GET /v1/models lists them")
    if spec.model_revision is not None:
        yield Problem(
            "model_revision", "names a revision, which only models on the Hugging Face hub have"
        )
    for param, name, _ in _list_uses(spec):
        path = files[name]
        if is_environment_name(name) or is_hub_name(name):
            continue  # a problem was reported
        if path is None:
            yield Problem(param, f"No file with id {name}; GET /v1/files lists them")
        elif not path.is_absolute():
            yield Problem(param, f"{name!r} must be a file id or an absolute path on the server")


def _list_uses(spec: JobSpec) -> list[tuple[str, str, Needs]]:
    """(param, file, fields that its rows must have) of every use of a file."""
    uses: list[tuple[str, str, Needs]] = []
    for stage in spec.method.stages:
        if stage == "eval":
            continue
        own = spec.sft.training_file if stage == "sft" else spec.rl.training_file
        shared = "training_file" if spec.training_file else "training_mixture"
        param = f"{stage}.training_file" if own else shared
        uses.extend((param, part.file, stage) for part in spec.training_files_of(stage))
    if spec.validation_file is not None:
        uses.append(("validation_file", spec.validation_file, "eval"))
    held_out = spec.sft.validation_file
    if held_out not in (None, spec.validation_file) and "sft" in spec.method.stages:
        uses.append(("sft.validation_file", held_out, "sft"))
    return uses


def _find_special_tokens_of_prompt(spec: JobSpec, special: SpecialTokens) -> Iterator[Problem]:
    for param, text in (
        ("prompt.template", spec.prompt.template),
        ("prompt.system", spec.prompt.system or ""),
    ):
        if (token := special.find_in(text)) is not None:
            yield Problem(param, f"has {token!r}; the chat template adds the tokens of a turn")


def _find_row_problems(
    plane: ControlPlane,
    spec: JobSpec,
    files: Mapping[str, Path | None],
    special: SpecialTokens | None,
) -> Iterator[Problem]:
    for param, name, needs in _list_uses(spec):
        path = files[name]
        if path is None or not path.is_absolute():
            continue
        reading = _reading_of(spec, param, name)
        try:
            yield from _find_problems_of_rows(
                spec, FileUse(param, name, path, needs, reading), special
            )
            audited = uses_correctness(spec.reward.graders) and name.startswith(_FILE_ID)
            if needs != "sft" and audited:
                found = find_reference_answer_problems(plane.fleet, path, reading)
                yield from (Problem(param, str(problem)) for problem in found)
        except ProblemsError as error:
            yield from (Problem(param, str(problem)) for problem in error.problems)


def _find_problems_of_rows(
    spec: JobSpec, use: FileUse, special: SpecialTokens | None
) -> Iterator[Problem]:
    """Read the whole file, one row at a time; raises ProblemsError after the last one."""
    # The loss of a supervised stage is also measured on the validation file.
    completions = use.needs == "sft" or (use.needs == "eval" and "sft" in spec.method.stages)
    trace = spec.sft.noise == "trace"
    graders = spec.reward.graders
    num_found = 0
    for row in read_rows(
        use.path, use.needs, required_fields(graders), row_checks(graders), use.reading
    ):
        if special is None or num_found == MAX_PROBLEMS_SHOWN:
            continue
        reason = find_special_token(row, special, completions=completions, trace=trace)
        if reason is not None:
            num_found += 1
            yield Problem(use.param, f"{row.place}: {reason}")


def _reading_of(spec: JobSpec, param: str, name: str) -> Reading:
    return spec.reading_of(name, validates=param.endswith("validation_file"))


def _find_grader_problems(plane: ControlPlane, spec: JobSpec) -> Iterator[Problem]:
    """What graders need and the installation does not have; the reward service knows."""
    needing = [grader for grader in spec.reward.graders if grader.needs_installation]
    if not needing or not spec.needs_rollout():
        return
    request = reward_pb2.VerifyRequest(graders=map(grader_text, needing), profile="rl")
    try:
        plane.fleet.grade(request, _CHECK_TIMEOUT_S)
    except PlatformError as error:
        # Without a reward service the job waits for one; it must not be refused for that.
        if error.code == "invalid_request":
            yield Problem("reward.graders", error.message)
        else:
            log.warning("graders not checked", code=error.code, error=error.message)


def _find_missing_replicas(spec: JobSpec, installed: int) -> Iterator[Problem]:
    # A job that waits for replicas that do not exist blocks every job behind it that decodes.
    wanted = count_replicas(spec)
    if wanted > installed:
        yield Problem(
            "resources.rollout_replicas",
            f"is {wanted}, but this installation has {installed} (DIRL_ROLLOUT_ADDRESSES)",
        )


def _read_card(model_path: Path, problems: list[Problem]) -> ModelCard | None:
    if not model_path.is_absolute() or not model_path.is_dir():
        rule = "must be the absolute path of a model directory on the server, or the id of a registered model (model_…)"
        problems.append(
            Problem(
                "model", f"{str(model_path)!r} {rule}; `dirl jobs submit` downloads models by name"
            )
        )
        return None
    try:
        return read_model_card(model_path)
    except PlatformError as error:
        problems.append(Problem("model", error.message))
        return None


def _find_contradictions(spec: JobSpec, card: ModelCard) -> Iterator[Problem]:
    """Places where spec and model cannot both be right."""
    try:
        decoding = resolve_decoding(
            spec,
            block_size=card.block_size,
            mask_token_id=card.mask_token_id,
            stop_token_ids=(),
            evaluation=False,
        )
    except ProblemsError as error:
        yield from error.problems
        return
    if count_replicas(spec) and decoding.max_new_tokens >= card.max_positions:
        yield Problem(
            "sampling.max_new_tokens",
            f"is {decoding.max_new_tokens}; with a prompt that exceeds the model's {card.max_positions} positions",
        )
