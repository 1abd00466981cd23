"""Generating a response with a model, a checkpoint or a job's newest checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from services.api.db.jobs import get_job, newest_checkpoint
from services.api.db.record_tables import Checkpoint, RegisteredModel
from services.api.domain.access import Caller
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.estimate import find_free_replica
from services.common.checkpoint.pins import pin
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import rollout_pb2

_READ_S: Final = 600.0
"""Seconds in which a replica has read a checkpoint; until then retention leaves it."""


def generate_response(
    plane: ControlPlane, caller: Caller, model: str, request: rollout_pb2.GenerateRequest
) -> Iterator[rollout_pb2.GenerateResponse]:
    """Pieces of the response of an idle replica; raises PlatformError."""
    with plane.database.begin() as session:
        checkpoint = _find_checkpoint(session, caller, model)
        path = _find_model_path(session, caller, model) if checkpoint is None else checkpoint.path
    if checkpoint is not None:
        # The replica reads the checkpoint later; the retention of a running job might be faster.
        pin(Path(path), "chat", _READ_S)
    request.model_path = path
    return plane.fleet.generate(find_free_replica(plane), request)


def _find_checkpoint(session: Session, caller: Caller, model: str) -> Checkpoint | None:
    name = (newest_checkpoint(session, model) or "") if model.startswith("job_") else model
    row = session.get(Checkpoint, name)
    if row is None or row.deleted_at is not None or not Path(row.path).is_dir():
        return None
    return row if caller.owns(get_job(session, row.job_id).project) else None


def _find_model_path(session: Session, caller: Caller, model: str) -> str:
    row = session.get(RegisteredModel, model)
    if row is None or not caller.owns(row.project):
        raise PlatformError(
            "not_found",
            f"No model, checkpoint or job with a checkpoint has the id {model!r}.",
            hint="GET /v1/models and GET /v1/jobs/{id}/checkpoints list them.",
            param="model",
        )
    return row.path
