"""Changing a job while it runs: metadata, priority, hyperparameters, and checkpoints on request."""

from sqlalchemy import select

from services.api.db.job_tables import Job
from services.api.db.jobs import append_event, get_job, lock_job
from services.api.db.record_tables import JobEvent
from services.api.domain.job_state import TERMINAL, JobState, require_state
from services.api.schemas.jobs import Changes, CheckpointRequest, JobChanges
from services.api.use_cases.control_plane import ControlPlane
from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.ids import new_id
from services.common.job_spec import JobSpec
from services.common.steering import (
    Revision,
    check_steerable,
    read_revisions,
    with_changes,
    write_checkpoint_request,
    write_revision,
)
from services.common.telemetry.logs import get_logger

_CHANGED_EVENT = "changed"
"""{revision, changes}"""

log = get_logger()


def change_job(plane: ControlPlane, job_id: str, changes: JobChanges) -> Job:
    """Change metadata, priority, and hyperparameters; a running job applies these between two steps
    as a revision.
    """
    with plane.database.begin() as session:
        job = lock_job(session, job_id)
        if changes.metadata is not None:
            job.labels = changes.metadata
        if changes.priority is not None:
            job.priority = changes.priority
        if changes.hyperparameters:
            if job.job_state in TERMINAL:
                raise PlatformError(
                    "illegal_transition",
                    f"Hyperparameters of job {job.id} cannot be changed: it is {job.state}.",
                    hint="Fork it with other values.",
                )
            check_steerable(changes.hyperparameters)
            spec = JobSpec.model_validate(job.spec)
            _require_effect(spec, changes.hyperparameters)
            changed = with_changes(spec, changes.hyperparameters)
            job.spec, job.spec_hash = changed.model_dump(mode="json"), changed.spec_hash()
            job.revision += 1
            append_event(
                session,
                job,
                _CHANGED_EVENT,
                {"revision": job.revision, "changes": changes.hyperparameters},
            )
    write_missing_revisions(plane, job)
    return job


def write_missing_revisions(plane: ControlPlane, job: Job) -> None:
    """Write the files of revisions that the learner cannot see yet, the oldest first.

    A process that dies between the commit and the file leaves one out; so does a full disk. The
    scheduler calls this until it is written. The learner reads on from the greatest number it
    knows, so no file may follow a missing one.
    """
    directory = plane.job_dir(job.id)
    if job.revision == 0 or read_revisions(directory, job.revision - 1):
        return
    written = {revision.number for revision in read_revisions(directory, 0)}
    changed = (
        select(JobEvent)
        .where(JobEvent.job_id == job.id, JobEvent.type == _CHANGED_EVENT)
        .order_by(JobEvent.position)
    )
    with plane.database.begin() as session:
        events = session.scalars(changed).all()
    for event in events:
        if event.data["revision"] in written:
            continue
        try:
            write_revision(directory, Revision(event.data["revision"], event.data["changes"]))
        except OSError as error:
            log.warning("revision not written yet", job_id=job.id, reason=str(error))
            return


def request_checkpoint(plane: ControlPlane, job_id: str) -> CheckpointRequest:
    """Have a running job write a checkpoint after its current step."""
    with plane.database.begin() as session:
        job = get_job(session, job_id)
    require_state(job_id, "write a checkpoint of", job.job_state, frozenset({JobState.RUNNING}))
    write_checkpoint_request(plane.job_dir(job_id), new_id("ckpt"))
    return CheckpointRequest(job_id=job_id, after_step=(job.progress or {"step": 0})["step"])


def _require_effect(spec: JobSpec, changes: Changes) -> None:
    training = [stage for stage in spec.method.stages if stage != "eval"]
    overriding = [stage for stage in training if getattr(spec, stage).optim is not None]
    if not training or len(overriding) < len(training):
        return
    problems = [
        Problem(
            key,
            f"has no effect: {overriding[-1]}.optim overrides it; change {overriding[-1]}.{key}",
        )
        for key in changes
        if key.startswith("optim.")
    ]
    if problems:
        raise ProblemsError("spec_invalid", "The job cannot be changed so", problems)
