"""Accepting a job: everything that can be known to be wrong with it is said now, at once, and not
after an hour.

Idempotent with a key: the same key with the same body gives the same job, with another body it is
refused.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.dialects.postgresql import insert

from services.api.db.base import utc_now
from services.api.db.database import Database
from services.api.db.job_tables import IdempotencyKey, Job
from services.api.db.jobs import transition
from services.api.db.record_tables import RegisteredModel, StoredFile
from services.api.domain.access import Caller
from services.api.domain.job_state import JobState
from services.api.http.gold_audit import gold_problems
from services.common.data.rows import Needs, read_rows
from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.ids import new_id
from services.common.job_decoding import resolve_decoding
from services.common.job_spec import JobSpec, parse_spec
from services.common.model_card import ModelCard, read_model_card

Owned = TypeVar("Owned", StoredFile, RegisteredModel)


@dataclass(frozen=True)
class FileUse:
    """What a stage reads."""

    param: str
    file: str
    """As the spec names it."""
    path: Path
    needs: Needs


@dataclass(frozen=True)
class Submission:
    """A job that can be accepted."""

    spec: JobSpec
    model_path: Path
    card: ModelCard
    files: dict[str, str]
    """Path of every file that the spec names."""

    @property
    def uses(self) -> list["FileUse"]:
        """Every use of a file by a stage."""
        return [
            FileUse(param, name, Path(self.files[name]), needs)
            for param, name, needs in _uses(self.spec)
        ]

    def to_row(self) -> Job:
        """A new job."""
        return Job(
            id=new_id("job"),
            spec=self.spec.model_dump(mode="json"),
            spec_hash=self.spec.spec_hash(),
            method=self.spec.method.type,
            labels=self.spec.metadata,
            model_path=str(self.model_path),
            files=self.files,
            max_sequence_tokens=_max_sequence_tokens(self.spec, self.card),
            rollout_replicas=_replicas(self.spec),
            state=JobState.VALIDATING_FILES,
            attempt=0,
            priority=self.spec.priority,
            revision=0,
            forgiven_attempts=0,
            latest_metrics={},
            event_count=0,
        )


class Submissions:
    """Checks and stores jobs."""

    def __init__(
        self,
        database: Database,
        max_replicas: int,
        caller: Caller,
        require: Callable[[Submission], None],
    ) -> None:
        """`require` refuses a sound job that the installation cannot take."""
        self._database = database
        self._max_replicas = max_replicas
        self._caller = caller
        self._require = require

    def submit(self, body: Any, key: str | None) -> tuple[Job, bool]:
        """The job, and whether it is new; raises PlatformError and ProblemsError."""
        request_hash = _canonical_hash(body)
        if key is not None:
            key = f"{self._caller.project}:{key}"
        return self._submit(body, key, request_hash)

    def _submit(self, body: Any, key: str | None, request_hash: str) -> tuple[Job, bool]:
        if key is not None and (known := self._known(key, request_hash)):
            return known, False
        submission = self.check(body)
        self._require(submission)
        job = submission.to_row()
        job.project, job.key_id = self._caller.project, self._caller.key_id
        if not self._store(job, key, request_hash):
            return self._submit(body, key, request_hash)
        return job, True

    def _known(self, key: str, request_hash: str) -> Job | None:
        """The job that the key was used for; raises "conflict" when it was another request."""
        with self._database.begin() as session:
            used = session.get(IdempotencyKey, key)
            if used is None:
                return None
            if used.request_hash != request_hash:
                raise PlatformError(
                    "conflict",
                    f"Idempotency-Key {key.partition(':')[2]!r} was used for job {used.job_id}, which was asked for "
                    "with another body.",
                    hint="Use a new key for a new job.",
                )
            return session.get_one(Job, used.job_id)

    def _store(self, job: Job, key: str | None, request_hash: str) -> bool:
        """Insert and queue; False, with nothing stored, when the key was used meanwhile."""
        with self._database.begin() as session:
            session.add(job)
            session.flush()
            if key is not None:
                row = {
                    "key": key,
                    "request_hash": request_hash,
                    "job_id": job.id,
                    "created_at": utc_now(),
                }
                used = (
                    insert(IdempotencyKey)
                    .values(row)
                    .on_conflict_do_nothing()
                    .returning(IdempotencyKey.key)
                )
                if session.execute(used).first() is None:
                    session.rollback()
                    return False
            transition(session, job, JobState.QUEUED)
        return True

    def check(self, body: Any) -> Submission:
        """What could be accepted; raises PlatformError and ProblemsError."""
        spec = parse_spec(body)
        if paths := list(self._server_paths(spec)):
            raise ProblemsError("permission_denied", "The job cannot be accepted", paths)
        named_files, model_path = self._look_up(spec)
        problems = [
            *self._missing(spec, named_files, model_path),
            *_row_problems(spec, named_files),
        ]
        card = None if model_path is None else _card(model_path, problems)
        if card is not None:
            problems.extend(_contradictions(spec, card))
        if _replicas(spec) > self._max_replicas:
            problems.append(
                Problem(
                    "resources.rollout_replicas",
                    f"is {_replicas(spec)}, but this installation has {self._max_replicas} (DIRL_ROLLOUT_ADDRESSES)",
                )
            )
        if problems or card is None or model_path is None:
            raise ProblemsError("spec_invalid", "The job cannot be accepted", problems)
        files = {name: str(path) for name, path in named_files.items() if path is not None}
        return Submission(spec, model_path, card, files)

    def _look_up(self, spec: JobSpec) -> tuple[dict[str, Path | None], Path | None]:
        """Where the spec's files and model are; None for an id that is not known."""
        with self._database.begin() as session:
            files = {
                name: self._own(session.get(StoredFile, name))
                for name in spec.files()
                if name.startswith("file_")
            }
            model = (
                self._own(session.get(RegisteredModel, spec.model))
                if spec.model.startswith("model_")
                else None
            )
        paths = {
            name: Path(name)
            if name not in files
            else None
            if (row := files[name]) is None
            else Path(row.path)
            for name in spec.files()
        }
        if spec.model.startswith("model_"):
            return paths, None if model is None else Path(model.path)
        return paths, Path(spec.model)

    def _own(self, row: Owned | None) -> Owned | None:
        """The row, if it exists for the caller."""
        return row if row is not None and self._caller.owns(row.project) else None

    def _server_paths(self, spec: JobSpec) -> Iterator[Problem]:
        """Paths of the server, which a caller who is no admin must not have read."""
        if self._caller.is_admin:
            return
        rule = "is a path of the server, which needs a key with the scope admin; upload the file, export the model"
        params = {name: param for param, name, _ in _uses(spec)}
        files = (
            (params.get(name, "a file that no stage reads"), name, "file_") for name in spec.files()
        )
        named = [("model", spec.model, "model_"), *files]
        yield from (
            Problem(param, f"{name!r} {rule}")
            for param, name, prefix in named
            if not name.startswith(prefix)
        )

    def _missing(
        self, spec: JobSpec, files: Mapping[str, Path | None], model_path: Path | None
    ) -> Iterator[Problem]:
        if model_path is None:
            yield Problem(
                "model", f"{spec.model!r} is no registered model; GET /v1/models lists them"
            )
        if spec.model_revision is not None:
            yield Problem(
                "model_revision", "names a revision, which only models on the Hugging Face hub have"
            )
        for param, name, _ in _uses(spec):
            path = files[name]
            if path is None:
                yield Problem(param, f"{name!r} is no uploaded file; GET /v1/files lists them")
            elif not path.is_absolute():
                yield Problem(
                    param, f"{name!r} must be a file id or an absolute path on the server"
                )


def _uses(spec: JobSpec) -> list[tuple[str, str, Needs]]:
    """(param, file, what its rows must have) of every use of a file."""
    uses: list[tuple[str, str, Needs]] = []
    for stage in spec.method.stages:
        if stage == "eval":
            continue
        own = spec.sft.training_file if stage == "sft" else spec.rl.training_file
        place = (
            f"{stage}.training_file"
            if own
            else "training_file"
            if spec.training_file
            else "training_mixture"
        )
        uses.extend((place, part.file, stage) for part in spec.training_files_of(stage))
    if spec.validation_file is not None:
        uses.append(("validation_file", spec.validation_file, "eval"))
    held_out = spec.sft.validation_file
    if held_out not in (None, spec.validation_file) and "sft" in spec.method.stages:
        uses.append(("sft.validation_file", held_out, "sft"))
    return uses


def _row_problems(spec: JobSpec, files: Mapping[str, Path | None]) -> Iterator[Problem]:
    for param, name, needs in _uses(spec):
        path = files[name]
        if path is None or not path.is_absolute():
            continue
        try:
            read_rows(path, needs)
            if needs != "sft" and name.startswith("file_"):
                yield from (Problem(param, str(problem)) for problem in gold_problems(path))
        except ProblemsError as error:
            yield from (Problem(param, str(problem)) for problem in error.problems)


def _card(model_path: Path, problems: list[Problem]) -> ModelCard | None:
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


def _contradictions(spec: JobSpec, card: ModelCard) -> Iterator[Problem]:
    """Where spec and model cannot both be right."""
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
    if _replicas(spec) and decoding.max_new_tokens >= card.max_positions:
        yield Problem(
            "sampling.max_new_tokens",
            f"is {decoding.max_new_tokens}; with a prompt that exceeds the model's {card.max_positions} positions",
        )


def _replicas(spec: JobSpec) -> int:
    return spec.resources.rollout_replicas if spec.needs_rollout() else 0


def _max_sequence_tokens(spec: JobSpec, card: ModelCard) -> int:
    """Longest prompt + response in tokens, rounded up to whole blocks as the engine does."""
    response = max(spec.sampling.max_new_tokens, spec.eval.max_new_tokens or 0)
    blocks = -(-(spec.prompt.max_prompt_tokens + response) // card.block_size) + 1
    return min(blocks * card.block_size, card.max_positions)


def _canonical_hash(body: Any) -> str:
    return hashlib.sha256(
        json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
