"""Gives waiting jobs their services: finds what is free, decides, leases.

Repeatable: a job is placed in one transaction that checks again, under the row's lock, that it
still waits, and takes the leases, of which each address has one. A process that dies before the
commit has done nothing; one that dies after it has lost only the wake-up that starts the learner, which
the beat repeats.
"""

from sqlalchemy import select

from services.api.adapters.fleet import reads_same_spec
from services.api.db.heartbeats import beat
from services.api.db.job_tables import Attempt, Job, ServiceLease
from services.api.db.jobs import (
    awaiting_placement,
    lock_job,
    open_attempt,
    read_shares,
    running_attempt,
    set_waiting,
)
from services.api.domain.job_state import JobState
from services.api.domain.placement import (
    FreeServices,
    Need,
    Placement,
    Waiter,
    Waiting,
    fair_order,
    place_all,
)
from services.api.scheduler.context import SchedulerContext
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import trainer_pb2
from services.common.telemetry.logs import get_logger

log = get_logger()


def dispatch(context: SchedulerContext) -> None:
    """Place every waiting job that can be placed, in a fair order; store for the others what they
    wait for.
    """
    with context.database.begin() as session:
        beat(session, "scheduler")
        jobs = {job.id: job for job in awaiting_placement(session)}
        if not jobs:
            return
        waiting = [
            Waiter(job.id, job.project, job.key_id or "", job.priority) for job in jobs.values()
        ]
        order = fair_order(
            waiting, read_shares(session, Job.project), read_shares(session, Job.key_id)
        )
        needs = [Need(job_id, jobs[job_id].rollout_replicas) for job_id in order]
        # Only a first selection: a service that is leased from here on is refused by the primary
        # key of the leases.
        leased = set(session.scalars(select(ServiceLease.address)))

    free = _find_free_services(context, leased)

    for outcome in place_all(needs, free):
        if isinstance(outcome, Waiting):
            with context.database.begin() as session:
                job = lock_job(session, outcome.job_id)
                if _is_waiting(job.job_state):
                    set_waiting(session, job, outcome.service, outcome.reason)
        elif _lease_services(context, outcome):
            # The lease is committed: when this message is lost, the beat starts the attempt.
            context.wakeups.reconcile(outcome.job_id)


def _find_free_services(context: SchedulerContext, leased: set[str]) -> FreeServices:
    fleet = context.fleet
    trainers = fleet.ask_all(fleet.trainer_status, [a for a in fleet.trainers if a not in leased])
    replicas = fleet.ask_all(fleet.rollout_status, [a for a in fleet.replicas if a not in leased])
    # An unleased replica that still has an assignment missed its release; the next assignment
    # replaces it.
    return FreeServices(
        trainers=[
            address
            for address, status in trainers.items()
            if _is_free_trainer(context, address, status)
        ],
        replicas=[
            address
            for address, status in replicas.items()
            if not isinstance(status, PlatformError)
            and (status.state == "idle" or status.job_id != "")
        ],
        reward_is_up=fleet.reward_is_up(),
        leased_replicas=sum(address in leased for address in fleet.replicas),
    )


def _is_free_trainer(
    context: SchedulerContext,
    address: str,
    status: trainer_pb2.GetTrainerStatusResponse | PlatformError,
) -> bool:
    if isinstance(status, PlatformError):
        return False
    if status.state == "running":
        _stop_orphan(context, address, status)
        return False
    if not reads_same_spec(
        status
    ):  # it would refuse the spec, or read it otherwise than it was meant
        log.warning(
            "trainer of another release left alone", trainer=address, version=status.version
        )
        return False
    return True


def _stop_orphan(
    context: SchedulerContext, address: str, status: trainer_pb2.GetTrainerStatusResponse
) -> None:
    """End a learner whose attempt was given up while its trainer could not be reached: its results
    are not read any more.
    """
    with context.database.begin() as session:
        belongs = select(Attempt.id).where(
            Attempt.job_id == status.job_id,
            Attempt.number == status.attempt,
            Attempt.ended_at.is_(None),
        )
        if session.execute(belongs).first() is not None:
            return
    log.warning(
        "orphaned learner stopped", trainer=address, job_id=status.job_id, attempt=status.attempt
    )
    try:
        context.fleet.stop_job(address, status.job_id, status.attempt, grace_s=0.0)
    except PlatformError as error:
        log.warning("orphaned learner not stopped", trainer=address, reason=error.message)


def _lease_services(context: SchedulerContext, placement: Placement) -> bool:
    """Lease; False when the job no longer waits or another dispatcher was faster."""
    with context.database.begin() as session:
        job = lock_job(session, placement.job_id)
        if not _is_waiting(job.job_state) or running_attempt(session, job.id) is not None:
            return False
        attempt = open_attempt(session, job, placement.trainer, placement.replicas)
    if attempt is not None:
        log.info(
            "job placed",
            job_id=placement.job_id,
            attempt=attempt.number,
            trainer=attempt.trainer_address,
            replicas=attempt.rollout_addresses,
        )
    return attempt is not None


def _is_waiting(state: JobState) -> bool:
    return state in (JobState.QUEUED, JobState.PROVISIONING)
