"""The one way to make a job, for submissions, forks, the demo and OpenAI's fine-tuning API. Nothing
else constructs a Job row.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.dialects.postgresql import insert

from services.api.adapters.job_files import adopt_checkpoint, delete_job_directory
from services.api.db.clock import utc_now
from services.api.db.job_tables import IdempotencyKey, Job
from services.api.db.jobs import transition
from services.api.db.record_tables import Checkpoint
from services.api.domain.access import Caller
from services.api.domain.job_state import JobState
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.estimate import require_fit, require_good_estimate
from services.api.use_cases.job_checks import CheckedSpec, check_spec
from services.common.checkpoint.pins import pin, unpin
from services.common.errors import PlatformError
from services.common.ids import new_id

_COPY_S: Final = 600.0
"""Seconds for which retention leaves a checkpoint that a fork copies."""


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a fork starts from, and the job that wrote it."""

    parent: Job
    checkpoint: Checkpoint


@dataclass(frozen=True)
class KeyedRequest:
    """An idempotency key, with what was asked for under it."""

    key: str
    request_hash: str


def submit_job(
    plane: ControlPlane,
    caller: Caller,
    body: Any,
    *,
    key: str | None = None,
    preflight: bool = False,
) -> tuple[Job, bool]:
    """Submit a job; return it, and whether it is new. Raises PlatformError and ProblemsError.

    Idempotent with a key: the same key with the same body gives the same job, with another body it
    is refused.
    """
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    request_hash = hashlib.sha256(canonical.encode()).hexdigest()
    keyed = None if key is None else KeyedRequest(f"{caller.project}:{key}", request_hash)
    while True:
        if keyed is not None and (known := _find_job_of_key(plane, keyed)):
            return known, False
        job = create_job(plane, caller, body, keyed=keyed, preflight=preflight)
        if job is not None:  # else another request used the key meanwhile, and has the job
            plane.wakeups.dispatch()
            return job, True


def create_job(
    plane: ControlPlane,
    caller: Caller,
    body: Any,
    *,
    origin: Origin | None = None,
    keyed: KeyedRequest | None = None,
    preflight: bool = False,
) -> Job | None:
    """Check everything, then store and queue a job; None when the idempotency key was used
    meanwhile.

    Raises PlatformError and ProblemsError, with nothing left behind. A fork's checkpoint is copied
    before the row exists: the copy of a process that dies in between is pruned.
    """
    parent = None if origin is None else origin.parent
    checked = check_spec(plane, caller, body, accepted=parent)
    plane.require_quota(caller.project if parent is None else parent.project)
    if preflight:
        require_good_estimate(plane, caller, checked)
    else:
        require_fit(plane, checked)
    job = _to_row(checked, caller, origin)
    if origin is None:
        return job if _store(plane, job, keyed) else None
    with _copy_origin(plane, origin, job.id):
        return job if _store(plane, job, keyed) else None


def _to_row(checked: CheckedSpec, caller: Caller, origin: Origin | None) -> Job:
    spec = checked.spec
    parent = None if origin is None else origin.parent
    # A priority that was raised after the parent's submission is inherited.
    inherits = parent is not None and spec.priority == parent.spec["priority"]
    return Job(
        id=new_id("job"),
        project=caller.project if parent is None else parent.project,
        key_id=caller.key_id if parent is None else parent.key_id,
        spec=spec.model_dump(mode="json"),
        spec_hash=spec.spec_hash(),
        method=spec.method.type,
        labels=spec.metadata,
        model_path=str(checked.model_path),
        files=checked.files,
        max_sequence_tokens=checked.max_sequence_tokens,
        rollout_replicas=checked.rollout_replicas,
        forked_from=None if origin is None else origin.checkpoint.id,
        state=JobState.VALIDATING_FILES,
        attempt=0,
        priority=parent.priority if parent is not None and inherits else spec.priority,
        revision=0,
        excluded_attempts=0,
        latest_metrics={},
        event_count=0,
    )


@contextmanager
def _copy_origin(plane: ControlPlane, origin: Origin, job_id: str) -> Iterator[None]:
    """The checkpoint in the new job's directory; the directory is removed when the block raises."""
    source, target = Path(origin.checkpoint.path), plane.job_dir(job_id)
    # The parent may be running: its retention must not remove the checkpoint while it is copied.
    pin(source, job_id, _COPY_S)
    try:
        adopt_checkpoint(source, plane.job_dir(origin.parent.id), target)
        yield
    except FileNotFoundError as error:
        delete_job_directory(target)
        raise PlatformError(
            "conflict",
            f"Checkpoint {origin.checkpoint.id} could not be copied: {error.filename} does not exist.",
            hint="Fork from another checkpoint of the job.",
        ) from error
    except BaseException:
        delete_job_directory(target)
        raise
    finally:
        unpin(source, job_id)


def _store(plane: ControlPlane, job: Job, keyed: KeyedRequest | None) -> bool:
    """Insert and queue; False, with nothing stored, when the key was used meanwhile."""
    with plane.database.begin() as session:
        session.add(job)
        # The job goes first: the row of the key refers to it.
        session.flush()
        if keyed is not None:
            used = (
                insert(IdempotencyKey)
                .values(
                    key=keyed.key,
                    request_hash=keyed.request_hash,
                    job_id=job.id,
                    created_at=utc_now(),
                )
                .on_conflict_do_nothing()
                .returning(IdempotencyKey.key)
            )
            # A request with the same key at the same time waited here for the other's commit.
            if session.execute(used).first() is None:
                session.rollback()
                return False
        transition(session, job, JobState.QUEUED)
    return True


def _find_job_of_key(plane: ControlPlane, keyed: KeyedRequest) -> Job | None:
    """The job that the key was used for; raises "conflict" when it was another request."""
    with plane.database.begin() as session:
        used = session.get(IdempotencyKey, keyed.key)
        if used is None:
            return None
        if used.request_hash != keyed.request_hash:
            raise PlatformError(
                "conflict",
                f"Idempotency-Key {keyed.key.partition(':')[2]!r} was used for job {used.job_id} with another body.",
                hint="Use a new key for a new job.",
            )
        return session.get_one(Job, used.job_id)
