"""/v1/models, /v1/checkpoints/{id}, /v1/exports/{id}"""

from fastapi import APIRouter

from services.api.db.jobs import get_checkpoint as get_checkpoint_row
from services.api.db.listing import newest_first, owned_by
from services.api.db.record_tables import Export, RegisteredModel
from services.api.domain.failure import make_not_found
from services.api.http.auth import Who
from services.api.http.paging import to_page
from services.api.http.resources import After, Limit, Res
from services.api.schemas.envelope import Page
from services.api.schemas.models import DeletedModel, ExportView, ModelRegistration, ModelView
from services.api.schemas.records import CheckpointView
from services.api.use_cases import deletion, models

router = APIRouter(tags=["models"])


@router.get("/v1/models")
def list_models(
    resources: Res, caller: Who, after: After = None, limit: Limit = 20
) -> Page[ModelView]:
    """Registered and exported models, newest first."""
    owned = owned_by(RegisteredModel, caller)
    with resources.database.begin() as session:
        rows = newest_first(session, RegisteredModel, owned, after, limit)
    return to_page(ModelView, rows, limit)


@router.post("/v1/models", status_code=201)
def register_model(resources: Res, caller: Who, body: ModelRegistration) -> ModelView:
    """Register a model directory; one that is registered already keeps its id. Paths of the server
    are for admins.
    """
    return ModelView.model_validate(models.register_model(resources, caller, body))


@router.get("/v1/models/{model_id}")
def get_model(resources: Res, model_id: str) -> ModelView:
    """One model."""
    with resources.database.begin() as session:
        row = session.get(RegisteredModel, model_id)
    if row is None:
        raise make_not_found("model", model_id, "GET /v1/models")
    return ModelView.model_validate(row)


@router.delete("/v1/models/{model_id}", tags=["storage"])
def delete_model(resources: Res, model_id: str) -> DeletedModel:
    """Delete a model that no unfinished job starts from. An exported one is removed from the disk, a
    registered directory stays.
    """
    deletion.delete_model(resources, model_id)
    return DeletedModel(id=model_id)


@router.get("/v1/checkpoints/{checkpoint_id}")
def get_checkpoint(resources: Res, checkpoint_id: str) -> CheckpointView:
    """One checkpoint."""
    with resources.database.begin() as session:
        return CheckpointView.model_validate(get_checkpoint_row(session, checkpoint_id))


@router.post("/v1/checkpoints/{checkpoint_id}/export", status_code=201)
def export_checkpoint(resources: Res, caller: Who, checkpoint_id: str) -> ExportView:
    """Have a checkpoint written as a model directory; a repeat returns the same export unless it
    failed.
    """
    return ExportView.model_validate(models.export_checkpoint(resources, caller, checkpoint_id))


@router.get("/v1/exports/{export_id}")
def get_export(resources: Res, export_id: str) -> ExportView:
    """How an export is going."""
    with resources.database.begin() as session:
        row = session.get(Export, export_id)
    if row is None:
        raise make_not_found("export", export_id)
    return ExportView.model_validate(row)
