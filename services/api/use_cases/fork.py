"""Forking a job: a new job that starts from a checkpoint of another one, with another spec."""

from typing import Any, Final

from services.api.db.job_tables import Job
from services.api.db.jobs import find_checkpoint, get_job, newest_checkpoint
from services.api.domain.access import Caller
from services.api.schemas.jobs import ForkRequest
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.create_job import Origin, create_job
from services.common.errors import Problem, ProblemsError
from services.common.job_spec import JobSpec
from services.common.steering import with_changes

_FIXED_IN_A_FORK: Final = (
    "model",
    "method",
    "seed",
    "training_file",
    "training_mixture",
    "validation_file",
    "sft.training_file",
    "rl.training_file",
    "data",
    "validation_data",
    "prompt",
    "diffusion",
    "trainer.seq_len",
)
"""The checkpoint's prompt ledger is kept for the rows and the order that these give."""


def fork_job(plane: ControlPlane, caller: Caller, job_id: str, request: ForkRequest) -> Job:
    """Create a job that starts from a checkpoint of this one: weights, optimizer, prompt ledger."""
    with plane.database.begin() as session:
        parent = get_job(session, job_id)
        wanted = request.checkpoint or newest_checkpoint(session, job_id) or ""
        origin = Origin(parent, find_checkpoint(session, job_id, wanted))
    given = {"suffix": request.suffix, "metadata": request.metadata}
    own = {key: value for key, value in given.items() if value is not None}
    spec = with_changes(JobSpec.model_validate(parent.spec), {**request.changes, **own})
    values = spec.model_dump(mode="json")
    # Values are compared, not the keys of the request: a section may bring another file along.
    problems = [
        Problem(
            key,
            "cannot differ from the parent's: the checkpoint's prompt ledger is kept for its rows and order",
        )
        for key in _FIXED_IN_A_FORK
        if _read_key(values, key) != _read_key(parent.spec, key)
    ]
    if problems:
        hint = "To train on other data, export the checkpoint and submit a job with it as `model`"
        raise ProblemsError("spec_invalid", f"The job cannot be forked so. {hint}", problems)
    job = create_job(plane, caller, spec, origin=origin)
    assert job is not None, "only a job with an idempotency key may exist already"
    plane.wakeups.dispatch()
    return job


def _read_key(values: dict[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found
