"""Requests of a user to a running learner: changed hyperparameters and checkpoints, as files in the
job's directory.

The control plane writes them, the learner reads them between two steps. A file is there or not, so
nothing is lost when either side dies: a revision is applied by every attempt, a checkpoint that was
asked for is written once.
"""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.common.checkpoint.store import write_file_durably
from services.common.errors import Problem, ProblemsError
from services.common.job_spec import JobSpec, parse_spec

STEERABLE: Final = frozenset(
    {
        *(
            f"{stage}optim.{name}"
            for stage in ("", "sft.", "rl.")
            for name in ("lr", "max_grad_norm")
        ),
        "rl.clip_low",
        "rl.clip_high",
        "rl.dynamic_sampling",
        "rl.min_reward_std",
        "rl.max_resample_rounds",
        "rl.min_groups_per_step",
        "rl.logged_groups_per_step",
        "reward.max_unverifiable_rate",
        "reward.timeout_s",
        "checkpoint.interval_steps",
        "checkpoint.max_undone_steps",
        "eval.interval_steps",
    }
)
"""Keys of the job spec that may change while a job runs; every one is read anew in each step."""

_REVISION: Final = re.compile(r"revision-(\d{4})\.json")
_CHECKPOINT: Final = "checkpoint-"


@dataclass(frozen=True)
class Revision:
    """A numbered change of the spec."""

    number: int
    """From 1."""
    changes: dict[str, Any]
    """Values by dotted key, e.g. {"optim.lr": 1e-5}."""


def with_changes(spec: JobSpec, changes: Mapping[str, Any]) -> JobSpec:
    """The spec with values replaced; raises ProblemsError("spec_invalid") naming every bad path or
    value.
    """
    values = spec.model_dump(mode="json")
    problems = [
        problem
        for key, value in changes.items()
        if (problem := _set_value(values, key, value)) is not None
    ]
    if problems:
        raise ProblemsError("spec_invalid", "The changes cannot be applied", problems)
    return parse_spec(values)


def _set_value(values: dict[str, Any], key: str, value: Any) -> Problem | None:
    """Set the value at a dotted key, or say why there is no such key."""
    *parents, last = key.split(".")
    section: Any = values
    for depth, parent in enumerate(parents, start=1):
        place = ".".join(parents[:depth])
        if parent not in section:
            return Problem(key, f"{place!r} is not a key of the job spec; remove it")
        if section[parent] is None:
            # A stage without optimizer settings of its own has the job's.
            section[parent] = dict(values["optim"]) if parent == "optim" else {}
        section = section[parent]
        if not isinstance(section, dict):
            kind = "a list" if isinstance(section, list) else "a single value"
            return Problem(
                key, f"{place!r} is {kind}, which has no keys; change {place!r} as a whole"
            )
    if not last:
        return Problem(key, "ends in no key; name a key of the job spec, e.g. optim.lr")
    section[last] = value
    return None


def check_steerable(changes: Mapping[str, Any]) -> None:
    """Raise ProblemsError("spec_invalid") naming every key that cannot change while a job runs."""
    fixed = sorted(set(changes) - STEERABLE)
    if fixed:
        rule = f"cannot be changed while the job runs; these can: {', '.join(sorted(STEERABLE))}"
        raise ProblemsError(
            "spec_invalid", "Cannot change the running job", [Problem(key, rule) for key in fixed]
        )


def write_revision(job_dir: Path, revision: Revision) -> None:
    """Have the learner apply a revision; raises OSError."""
    path = _requests_dir(job_dir) / f"revision-{revision.number:04d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file_durably(path, json.dumps(revision.changes).encode())


def read_revisions(job_dir: Path, after: int) -> list[Revision]:
    """Revisions with a greater number, in order."""
    found = [
        (int(match[1]), path)
        for path in _files(job_dir)
        if (match := _REVISION.fullmatch(path.name))
    ]
    return [
        Revision(number, json.loads(path.read_bytes()))
        for number, path in sorted(found)
        if number > after
    ]


def write_checkpoint_request(job_dir: Path, name: str) -> None:
    """Have the learner write a checkpoint after its current step; raises OSError."""
    path = _requests_dir(job_dir) / f"{_CHECKPOINT}{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def checkpoint_requests(job_dir: Path) -> list[Path]:
    """Files of the checkpoints that were requested; to be deleted once one is written."""
    return [path for path in _files(job_dir) if path.name.startswith(_CHECKPOINT)]


def _requests_dir(job_dir: Path) -> Path:
    directory, former = job_dir / "requests", job_dir / "wishes"
    # Revisions of jobs that started before the directory had its name must survive. API and learner
    # may do this at the same time.
    if former.is_dir() and not directory.exists():
        with contextlib.suppress(FileNotFoundError):
            former.rename(directory)
    return directory


def _files(job_dir: Path) -> list[Path]:
    directory = _requests_dir(job_dir)
    return sorted(directory.iterdir()) if directory.is_dir() else []
