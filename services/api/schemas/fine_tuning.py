"""Jobs in the names and shapes of OpenAI's fine-tuning API."""

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, computed_field

from services.api.schemas.base import UnixSeconds, View


class FineTuningRequest(BaseModel):
    """Body of OpenAI's `fine_tuning.jobs.create`; keys of the platform's job spec may stand beside
    its own.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    training_file: str
    validation_file: str | None = None
    method: dict[str, Any] = Field(default_factory=lambda: {"type": "supervised"})
    hyperparameters: dict[str, Any] | None = Field(
        None, description="Of a supervised job; OpenAI's older place."
    )
    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    integrations: list[Any] | None = Field(
        None, description="Must be empty: jobs report to the platform alone."
    )


class FineTuningError(View):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class FineTuningJobView(View):
    """A job, shaped as OpenAI's."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: UnixSeconds
    finished_at: UnixSeconds | None
    estimated_finish: int | None
    error: FineTuningError | None
    fine_tuned_model: str | None
    """Checkpoint to be named as `model` in a chat completion, once the job succeeded."""
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    model: str
    organization_id: str = "local"
    result_files: list[str] = Field(default_factory=list)
    seed: int
    status: str
    """validating_files | queued | running | succeeded | failed | cancelled"""
    trained_tokens: int | None = None
    training_file: str
    validation_file: str | None
    metadata: dict[str, str]
    suffix: str | None


class FineTuningEvent(View):
    """An event, shaped as OpenAI's."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: UnixSeconds
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class FineTuningCheckpoint(View):
    """A checkpoint, shaped as OpenAI's."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: UnixSeconds
    fine_tuning_job_id: str = Field(validation_alias=AliasChoices("job_id", "fine_tuning_job_id"))
    step_number: int = Field(validation_alias=AliasChoices("step", "step_number"))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fine_tuned_model_checkpoint(self) -> str:
        """Name of the checkpoint as `model` of a completion."""
        return self.id

    @computed_field  # type: ignore[prop-decorator]
    @property
    def metrics(self) -> dict[str, float]:
        """The step, as OpenAI's clients expect it."""
        return {"step": float(self.step_number)}
