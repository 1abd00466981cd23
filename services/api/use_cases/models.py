"""Registering models and exporting checkpoints."""

import shutil
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import select

from services.api.db.jobs import get_checkpoint
from services.api.db.record_tables import Export, RegisteredModel
from services.api.db.usage import usage_of
from services.api.domain.access import Caller
from services.api.schemas.models import ModelRegistration, UsageView
from services.api.use_cases.control_plane import ControlPlane
from services.common.errors import PlatformError
from services.common.ids import new_id
from services.common.model_card import read_model_card


def register_model(
    plane: ControlPlane, caller: Caller, registration: ModelRegistration
) -> RegisteredModel:
    """Register a model directory; one that is registered already keeps its id."""
    if not caller.is_admin:
        raise PlatformError(
            "permission_denied",
            f"Registering {registration.path!r} needs the scope admin: it is a path on the server.",
        )
    path = Path(registration.path)
    if not path.is_absolute() or not path.is_dir():
        raise PlatformError(
            "model_invalid",
            f"Cannot register {registration.path!r}: it must be the absolute path of a directory on the server.",
            param="path",
        )
    card = asdict(read_model_card(path))
    with plane.database.begin() as session:
        row = session.scalar(select(RegisteredModel).where(RegisteredModel.path == str(path)))
        if row is None:
            row = RegisteredModel(id=new_id("model"), path=str(path), project=caller.project)
            session.add(row)
        row.name, row.card = registration.name or path.name, card
    return row


def export_checkpoint(plane: ControlPlane, caller: Caller, checkpoint_id: str) -> Export:
    """Have a checkpoint written as a model directory; a repeat returns the same export unless it
    failed.
    """
    exports = select(Export).where(Export.checkpoint_id == checkpoint_id, Export.state != "failed")
    with plane.database.begin() as session:
        row = session.scalar(exports)
    if row is None:
        plane.require_quota(caller.project)
    with plane.database.begin() as session:
        # Looked up again under the checkpoint's lock: of two requests at the same time one makes
        # the export, and the other returns it.
        checkpoint = get_checkpoint(session, checkpoint_id, lock=True)
        row = session.scalar(exports)
        if row is None:
            if checkpoint.deleted_at is not None:
                raise PlatformError(
                    "conflict",
                    f"Checkpoint {checkpoint.id} cannot be exported: the learner removed it.",
                    hint="Export a newer one; checkpoint.keep_last and checkpoint.keep_every say how many are kept.",
                )
            model_id = new_id("model")
            row = Export(
                id=new_id("export"),
                checkpoint_id=checkpoint.id,
                model_id=model_id,
                output_path=str(plane.data_dir / "models" / model_id),
                state="queued",
                starts=0,
            )
            session.add(row)
    plane.wakeups.export(row.id)
    return row


def read_usage(plane: ControlPlane, caller: Caller) -> UsageView:
    """What the caller's project stores, its quota, and the disk."""
    with plane.database.begin() as session:
        usage = usage_of(session, caller.project, plane.settings.project_quota_bytes)
    plane.data_dir.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(plane.data_dir)
    return UsageView(
        project=caller.project,
        files_bytes=usage.files,
        checkpoints_bytes=usage.checkpoints,
        models_bytes=usage.models,
        total_bytes=usage.total,
        quota_bytes=usage.quota,
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
    )
