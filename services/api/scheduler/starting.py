"""Starts an attempt on the services that it was given, and keeps its replicas assigned."""

from collections.abc import Iterable
from typing import Final

from services.api.adapters.fleet import UNREACHABLE_CODES
from services.api.db.clock import utc_now
from services.api.db.job_tables import Attempt, Job
from services.api.db.jobs import set_waiting, transition
from services.api.db.locks import open_locked
from services.api.domain.job_state import JobState
from services.api.scheduler.claims import ClaimedJob
from services.api.scheduler.context import SchedulerContext
from services.api.scheduler.ending import end_attempt
from services.api.use_cases.change import write_missing_revisions
from services.common.attempt_result import AttemptResult, AttemptState
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import rollout_pb2, trainer_pb2
from services.common.streams import stream_names
from services.common.telemetry.logs import get_logger

_PATIENCE_S: Final = 60.0
"""Seconds for which an attempt retries to start on services that do not answer; then the next
attempt gets others.
"""
_DTYPES: Final = {"fp32": "float32"}

log = get_logger()


def start_attempt(context: SchedulerContext, claimed: ClaimedJob, attempt: Attempt) -> None:
    """Assign the replicas and start the learner; then the job runs."""
    # The service that the job is said to wait for when the next call fails.
    service = "rollout"
    try:
        # Replicas first: the learner issues prompts as soon as it runs.
        _assign(context, claimed, attempt, attempt.rollout_addresses)
        # Before the start: a learner that resumes reads the revisions that it has not applied yet.
        write_missing_revisions(context, claimed.job)
        service = "trainer"
        context.fleet.start_job(
            attempt.trainer_address, _to_start_request(context, claimed, attempt)
        )
    except PlatformError as error:
        _handle_start_error(context, claimed, attempt, service, error)
        return
    with context.database.begin() as session:
        job = open_locked(session, Job, claimed.job.id, claimed.token)
        row = session.get_one(Attempt, attempt.id)
        row.state, row.started_at = AttemptState.RUNNING, utc_now()
        job.last_heartbeat_at = row.started_at
        set_waiting(session, job, None)
        if (
            job.job_state is JobState.PROVISIONING
        ):  # else it was cancelled meanwhile, and the next look stops it
            transition(session, job, JobState.RUNNING)
    log.info(
        "attempt started",
        job_id=claimed.job.id,
        attempt=attempt.number,
        trainer=attempt.trainer_address,
    )


def _handle_start_error(
    context: SchedulerContext,
    claimed: ClaimedJob,
    attempt: Attempt,
    service: str,
    error: PlatformError,
) -> None:
    log.warning(
        "attempt not started", job_id=claimed.job.id, attempt=attempt.number, reason=error.message
    )
    tried_s = (utc_now() - attempt.created_at).total_seconds()
    if error.code not in UNREACHABLE_CODES | {"busy"} or tried_s > _PATIENCE_S:
        end = AttemptResult.from_error(error)
        end_attempt(context, claimed, attempt, end, trainer_is_up=False)
        return
    with context.database.begin() as session:
        job = open_locked(session, Job, claimed.job.id, claimed.token)
        set_waiting(session, job, service)


def replica_missing(context: SchedulerContext, claimed: ClaimedJob, attempt: Attempt) -> bool:
    """Whether a replica of the attempt cannot be reached; one that was restarted
    is assigned again.
    """
    statuses = context.fleet.ask_all(context.fleet.rollout_status, attempt.rollout_addresses)
    silent = [address for address, status in statuses.items() if isinstance(status, PlatformError)]
    restarted = [
        address
        for address, status in statuses.items()
        if not isinstance(status, PlatformError)
        and (status.job_id, status.attempt) != (attempt.job_id, attempt.number)
    ]
    try:
        _assign(context, claimed, attempt, restarted)
    except PlatformError as error:
        log.warning("replica not assigned again", job_id=attempt.job_id, reason=error.message)
        return True
    if restarted:
        log.info(
            "replicas assigned again",
            job_id=attempt.job_id,
            attempt=attempt.number,
            replicas=restarted,
        )
    return bool(silent)


def _assign(
    context: SchedulerContext, claimed: ClaimedJob, attempt: Attempt, addresses: Iterable[str]
) -> None:
    """Assign side by side; raises the first error."""
    names = stream_names(claimed.job.id, attempt.number)
    spec = claimed.spec
    request = rollout_pb2.AssignRequest(
        job_id=claimed.job.id,
        attempt=attempt.number,
        model_path=claimed.job.model_path,
        prompts_stream=names.prompts,
        groups_stream=names.groups,
        reward_address=context.fleet.reward,
        max_sequence_tokens=claimed.job.max_sequence_tokens,
        max_batch_size=spec.resources.rollout_batch_size,
        dtype=_DTYPES[spec.trainer.precision],
    )
    results = context.fleet.ask_all(
        lambda address: context.fleet.assign(address, request), addresses
    )
    for result in results.values():
        if isinstance(result, PlatformError):
            raise result


def _to_start_request(
    context: SchedulerContext, claimed: ClaimedJob, attempt: Attempt
) -> trainer_pb2.StartJobRequest:
    names = stream_names(claimed.job.id, attempt.number)
    return trainer_pb2.StartJobRequest(
        job_id=claimed.job.id,
        attempt=attempt.number,
        spec_json=claimed.spec.canonical_json(),
        model_path=claimed.job.model_path,
        files=claimed.job.files,
        job_dir=str(context.job_dir(claimed.job.id)),
        rollout_addresses=attempt.rollout_addresses,
        prompts_stream=names.prompts,
        groups_stream=names.groups,
        steps_recorded=claimed.job.progress["step"] if claimed.job.progress else 0,
    )
