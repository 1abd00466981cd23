"""/v1/models, /v1/checkpoints/{id}, /v1/exports/{id}"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import select

from services.api.db.record_tables import Checkpoint, Export, RegisteredModel
from services.api.http.auth import Who
from services.api.http.envelope import Page, page_of
from services.api.http.paging import newest_first, owned_by
from services.api.http.resources import After, Limit, Res
from services.api.http.views import (
    CheckpointView,
    ExportView,
    ModelView,
    checkpoint_view,
    export_view,
    model_view,
)
from services.common.errors import PlatformError
from services.common.ids import new_id
from services.common.model_card import read_model_card

router = APIRouter(tags=["models"])

Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


class ModelRegistration(BaseModel):
    """A model directory to be known by an id."""

    model_config = ConfigDict(extra="forbid")

    path: Text
    """Absolute path on the server."""
    name: Text | None = None
    """By default the directory's name."""


@router.get("/v1/models")
def list_models(
    resources: Res, caller: Who, after: After = None, limit: Limit = 20
) -> Page[ModelView]:
    """Registered and exported models, newest first."""
    with resources.database.begin() as session:
        rows = newest_first(
            session, RegisteredModel, owned_by(RegisteredModel, caller), after, limit
        )
    return page_of([(row.id, model_view(row)) for row in rows], limit)


@router.post("/v1/models", status_code=201)
def register_model(resources: Res, caller: Who, body: ModelRegistration) -> ModelView:
    """Register a model directory; one that is registered already keeps its id. Paths of the server
    are for admins.
    """
    if not caller.is_admin:
        raise PlatformError(
            "permission_denied", f"Registering {body.path!r} needs the scope admin: it is a path."
        )
    path = Path(body.path)
    if not path.is_absolute() or not path.is_dir():
        raise PlatformError(
            "model_invalid",
            f"Cannot register {body.path!r}: it must be the absolute path of a directory on the server.",
            param="path",
        )
    card = asdict(read_model_card(path))
    with resources.database.begin() as session:
        row = session.scalar(select(RegisteredModel).where(RegisteredModel.path == str(path)))
        if row is None:
            row = RegisteredModel(id=new_id("model"), path=str(path), project=caller.project)
            session.add(row)
        row.name, row.card = body.name or path.name, card
    return model_view(row)


@router.get("/v1/models/{model_id}")
def get_model(resources: Res, model_id: str) -> ModelView:
    """One model."""
    with resources.database.begin() as session:
        row = session.get(RegisteredModel, model_id)
    if row is None:
        raise PlatformError(
            "not_found", f"There is no model {model_id!r}.", hint="GET /v1/models lists all."
        )
    return model_view(row)


@router.get("/v1/checkpoints/{checkpoint_id}")
def get_checkpoint(resources: Res, checkpoint_id: str) -> CheckpointView:
    """One checkpoint."""
    with resources.database.begin() as session:
        row = session.get(Checkpoint, checkpoint_id)
    if row is None:
        raise _no_checkpoint(checkpoint_id)
    return checkpoint_view(row)


@router.post("/v1/checkpoints/{checkpoint_id}/export", status_code=201)
def export_checkpoint(resources: Res, caller: Who, checkpoint_id: str) -> ExportView:
    """Have a checkpoint written as a model directory; asking again gives the same export unless it
    failed.
    """
    with resources.database.begin() as session:
        checkpoint = session.get(Checkpoint, checkpoint_id, with_for_update=True)
        if checkpoint is None:
            raise _no_checkpoint(checkpoint_id)
        row = session.scalar(
            select(Export).where(Export.checkpoint_id == checkpoint_id, Export.state != "failed")
        )
        if row is None:
            resources.require_quota(caller.project)
            row = _new_export(checkpoint, resources.data_dir / "models")
            session.add(row)
    resources.hints.export(row.id)
    return export_view(row)


def _new_export(checkpoint: Checkpoint, models_dir: Path) -> Export:
    if checkpoint.deleted_at is not None:
        raise PlatformError(
            "conflict",
            f"Checkpoint {checkpoint.id} cannot be exported: the learner removed it.",
            hint="Export a newer one; checkpoint.keep_last and checkpoint.keep_every say how many are kept.",
        )
    model_id = new_id("model")
    return Export(
        id=new_id("export"),
        checkpoint_id=checkpoint.id,
        model_id=model_id,
        output_path=str(models_dir / model_id),
        state="queued",
        starts=0,
    )


@router.get("/v1/exports/{export_id}")
def get_export(resources: Res, export_id: str) -> ExportView:
    """How an export is going."""
    with resources.database.begin() as session:
        row = session.get(Export, export_id)
    if row is None:
        raise PlatformError("not_found", f"There is no export {export_id!r}.")
    return export_view(row)


def _no_checkpoint(checkpoint_id: str) -> PlatformError:
    return PlatformError(
        "not_found",
        f"There is no checkpoint {checkpoint_id!r}.",
        hint="GET /v1/jobs/{id}/checkpoints lists a job's.",
    )
