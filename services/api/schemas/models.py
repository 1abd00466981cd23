"""Models, exports and what a project stores."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, StringConstraints

from services.api.schemas.base import FailureView, RequestBody, UnixSeconds, View

Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


class ModelRegistration(RequestBody):
    """A model directory to be registered."""

    path: Text
    """Absolute path on the server."""
    name: Text | None = None
    """By default the directory's name."""


class ModelView(View):
    """A model directory that a job may start from."""

    id: str
    object: Literal["model"] = "model"
    created: UnixSeconds = Field(validation_alias=AliasChoices("created_at", "created"))
    name: str
    path: str
    checkpoint_id: str | None
    """Checkpoint that it was exported from."""
    card: dict[str, Any]
    """model_type, block_size, mask_token_id, vocab_size, max_positions"""


class DeletedModel(View):
    """A model that is no longer registered."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool = True


class ExportView(View):
    """The export of a checkpoint as a model directory."""

    id: str
    object: Literal["export"] = "export"
    created_at: UnixSeconds
    finished_at: UnixSeconds | None
    checkpoint_id: str
    state: str
    """queued | running | succeeded | failed"""
    model_id: str | None = Field(validation_alias=AliasChoices("exported_model_id", "model_id"))
    """The model, once the export succeeded."""
    path: str = Field(validation_alias=AliasChoices("output_path", "path"))
    error: FailureView | None


class UsageView(View):
    """What the caller's project stores; bytes."""

    object: Literal["usage"] = "usage"
    project: str
    files_bytes: int
    checkpoints_bytes: int
    """What a fork shares with its parent counts for both."""
    models_bytes: int
    """Exported ones."""
    total_bytes: int
    quota_bytes: int | None
    """Null when the installation sets none (DIRL_PROJECT_QUOTA_BYTES)."""
    disk_free_bytes: int
    disk_total_bytes: int
