"""/v1/jobs/{id}/…: stop, queue again, change, checkpoint, fork, rescore and delete a job"""

from typing import Annotated

from fastapi import APIRouter, Body

from services.api.http.auth import Who
from services.api.http.resources import Res
from services.api.http.slots import HoldsHeavySlot
from services.api.schemas.graders import RescoreQuery, RescoreReport
from services.api.schemas.jobs import (
    CheckpointRequest,
    DeletedJob,
    ForkRequest,
    JobChanges,
    JobView,
    RewindRequest,
)
from services.api.schemas.records import DeletedCheckpoint
from services.api.use_cases import change, deletion, fork, requeue, rescore, stop

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])


@router.post("/cancel")
def cancel_job(resources: Res, job_id: str) -> JobView:
    """Stop a job for good, with a checkpoint when it is training. Cancelling it again changes
    nothing.
    """
    return JobView.model_validate(stop.cancel_job(resources, job_id))


@router.post("/pause")
def pause_job(resources: Res, job_id: str) -> JobView:
    """Stop a running job with a checkpoint, and release its services until it is resumed."""
    return JobView.model_validate(stop.pause_job(resources, job_id))


@router.post("/resume")
def resume_job(resources: Res, job_id: str) -> JobView:
    """Queue a paused job; it resumes from its newest checkpoint."""
    return JobView.model_validate(requeue.resume_job(resources, job_id))


@router.post("/rerun")
def rerun_job(resources: Res, job_id: str) -> JobView:
    """Queue a failed or cancelled job; it resumes from its newest checkpoint."""
    return JobView.model_validate(requeue.rerun_job(resources, job_id))


@router.post("/rewind")
def rewind_job(resources: Res, job_id: str, body: RewindRequest) -> JobView:
    """Queue a job that does not run so that it resumes from an earlier checkpoint; newer ones are
    archived, not lost.
    """
    return JobView.model_validate(requeue.rewind_job(resources, job_id, body.checkpoint))


@router.patch("")
def change_job(resources: Res, job_id: str, body: JobChanges) -> JobView:
    """Change metadata, priority, and hyperparameters, which a running job applies between two steps
    as a revision.
    """
    return JobView.model_validate(change.change_job(resources, job_id, body))


@router.post("/checkpoints", status_code=202)
def request_checkpoint(resources: Res, job_id: str) -> CheckpointRequest:
    """Have a running job write a checkpoint after its current step."""
    return change.request_checkpoint(resources, job_id)


@router.delete("/checkpoints/{checkpoint_id}", tags=["storage"])
def delete_checkpoint(resources: Res, job_id: str, checkpoint_id: str) -> DeletedCheckpoint:
    """Delete a checkpoint of a job that does not run; the job then resumes from the newest one
    left.
    """
    deletion.delete_checkpoint(resources, job_id, checkpoint_id)
    return DeletedCheckpoint(id=checkpoint_id)


@router.post("/fork", status_code=201)
def fork_job(
    resources: Res, caller: Who, job_id: str, body: Annotated[ForkRequest, Body()]
) -> JobView:
    """Create a job that starts from a checkpoint of this one: weights, optimizer, prompt ledger;
    with another spec.
    """
    return JobView.model_validate(fork.fork_job(resources, caller, job_id, body))


@router.post("/rescore", tags=["graders"])
async def rescore_job(
    resources: Res, job_id: str, query: RescoreQuery, _slot: HoldsHeavySlot
) -> RescoreReport:
    """Grade stored trajectories again; changes nothing. Verdicts that flip are listed with the
    advantages before and now.
    """
    return await resources.heavy.run(rescore.rescore_job, resources, job_id, query)


@router.delete("")
def delete_job(resources: Res, job_id: str) -> DeletedJob:
    """Delete a job that no learner works on, with its records, checkpoints and logs. Exported
    models stay.
    """
    deletion.delete_job(resources, job_id)
    return DeletedJob(id=job_id)
