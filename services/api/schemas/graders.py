"""Graders: validation, single runs and rescoring of stored trajectories."""

from typing import Annotated, Any, Literal

from pydantic import Field

from services.api.schemas.base import RequestBody, View

Grader = Annotated[
    Any, Field(description="A grader: its kind's name, or an object with name, type and options.")
]


class ValidateBody(RequestBody):
    """A grader to be validated."""

    grader: Grader


class ValidatedGrader(View):
    """A grader that can be used, with all its defaults."""

    grader: dict[str, Any]


class RunBody(RequestBody):
    """A grader and one response."""

    grader: Grader
    model_sample: str
    item: dict[str, Any] = Field(
        default_factory=dict,
        description="The row as graders see it. `reference_answer` is what the answer is compared"
        " with; `answer_type` is its type, derived from the text by default.",
    )
    profile: Literal["rl", "eval"] = "eval"
    num_tokens: int = Field(0, ge=0)
    """Like the next two for graders of length and speed; 0 is unknown."""
    num_steps: int = Field(0, ge=0)
    max_new_tokens: int = Field(0, ge=0)


class GraderErrors(View):
    """Why there is no reward."""

    python_grader_runtime_error: bool
    formula_error: bool
    unverifiable: bool
    details: str | None


class RunMetadata(View):
    """How the grader ran."""

    name: str
    type: str
    execution_time: float
    """Seconds."""
    errors: GraderErrors


class RunResult(View):
    """Result of a grader for one response."""

    reward: float | None
    """Null when the response cannot be scored; never 0 for that."""
    sub_rewards: dict[str, float]
    """Scores of a multi grader's parts."""
    metadata: RunMetadata
    verdict: dict[str, Any]


class RescoreQuery(RequestBody):
    """Which trajectories are graded, and by which graders."""

    graders: list[Any] | None = Field(
        None, min_length=1, max_length=16, description="Default: the job's own."
    )
    profile: Literal["rl", "eval"] | None = Field(
        None, description="Default: rl for training groups, else eval."
    )
    step: int | None = Field(None, ge=0, description="Only groups of this step.")
    max_groups: int = Field(100, ge=1, le=1000, description="The newest so many groups.")


class VerdictView(View):
    """A verdict with its reward and advantage, before or after."""

    outcome: str | None
    reason: str
    reward: float | None
    advantage: float | None
    """Null for evaluations, and where the response has no reward."""
    verifier_version: str


class Flip(View):
    """A trajectory whose outcome changed."""

    trajectory_id: str
    group_id: str
    step: int
    reference_answer: str
    extracted: str
    before: VerdictView
    now: VerdictView


class RescoreReport(View):
    """What grading again changes."""

    object: Literal["rescore"] = "rescore"
    job_id: str
    groups: int
    trajectories: int
    flipped: int
    """Trajectories whose outcome changed."""
    unverifiable: int
    """Trajectories that could not be graded now."""
    rewards_changed: int
    advantages_changed: int
    mean_abs_advantage_change: float | None
    """Over trajectories with an advantage before and now; null without any."""
    flips: list[Flip]
    """The first thousand."""
