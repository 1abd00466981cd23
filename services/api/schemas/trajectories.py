"""Groups of trajectories, with and without the arrays of every token."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from services.api.schemas.base import RequestBody, UnixSeconds, View
from services.common.trajectory import Outcome, Purpose


class GroupView(View):
    """One prompt with its responses, in the order of `response_index`."""

    id: str
    object: Literal["group"] = "group"
    created_at: UnixSeconds
    job_id: str
    attempt: int
    step: int
    purpose: str
    disposition: str
    """trained | evaluated | dropped, with the reason"""
    prompt: str | None
    """Special tokens left out; null when the model's tokenizer does not exist any more."""
    reference_answer: str
    trajectory_ids: list[str]
    outcomes: list[str]
    """Outcome of every response; "ungraded" without a verdict."""
    rewards: list[float | None]
    """What the learner made of the graders' scores of every response; null where the outcome carries no
    number.
    """
    staleness: int | None
    """Weight versions between the oldest response and the step that trained on it; null for
    evaluations.
    """
    replica: str | None
    rollout_s: float | None
    reward_s: float | None


class GroupQuery(RequestBody):
    """Which groups are wanted."""

    step: int | None = Field(None, ge=0)
    group_id: str | None = None
    purpose: Purpose | None = None
    outcome: Outcome | None = Field(None, description="Some response has this outcome.")
    mixed: bool = Field(False, description="Only groups whose responses differ in outcome.")
    after: str | None = Field(None, description="Id of the last item of the previous page.")
    limit: int = Field(20, ge=1, le=200, description="Items of a page.")


class TrajectoryView(View):
    """One sampled response, without its arrays."""

    id: str
    object: Literal["trajectory"] = "trajectory"
    created_at: UnixSeconds
    job_id: str
    attempt: int
    step: int
    group_id: str
    response_index: int
    purpose: str
    disposition: str
    outcome: str | None
    """Null when it was not graded."""
    reward: float | None
    """What the learner made of the graders' scores; null when the outcome carries no number."""
    rewards: dict[str, float]
    advantage: float | None
    reference_answer: str
    text: str
    visible_len: int
    num_steps: int
    num_forwards: int
    finish_reason: str
    weight_version: int


class TrajectoryDetail(TrajectoryView):
    """One sampled response as the model produced it, with every other field that the learner reported."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None
    """What the model was given, special tokens included; null when the model's tokenizer does not exist any more."""
    prompt_ids: list[int]
    row: dict[str, Any] | None
    """Row of the data set, as graders see it; null when it was too long to be recorded."""
    tokens: list[str] | None
    """Text of every token; one that is only part of a character is empty, and the one that
    completes it has it all. Null when the model's tokenizer
    does not exist any more.
    """
    block_size: int
    mask_token_id: int
    token_ids: list[int]
    unmask_step: list[int]
    logprobs: list[float | None]
    confidences: list[float | None]
    verdict: dict[str, Any] | None


class TrajectorySelection(RequestBody):
    """Which trajectories are wanted."""

    step: int | None = Field(None, ge=0)
    group_id: str | None = None
    purpose: Purpose | None = None
    outcome: Outcome | None = None
    min_reward: float | None = None


class TrajectoryExport(TrajectorySelection):
    """Which trajectories are wanted, and in which format."""

    format: Literal["jsonl", "parquet"] = "jsonl"


class TrajectoryQuery(TrajectorySelection):
    """A page of trajectories."""

    after: str | None = Field(None, description="Id of the last item of the previous page.")
    limit: int = Field(20, ge=1, le=1000, description="Items of a page.")
