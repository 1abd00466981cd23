"""/v1/graders and /v1/jobs/{id}/rescore: try a grader on one answer, or on what a job has stored"""

import time
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.api.http.resources import Res
from services.api.rescoring import RescoreQuery, RescoreReport, rescore
from services.common.codec import verdict_from_pb, verdict_to_json
from services.common.grader_spec import MultiGrader, grader_text, parse_grader
from services.common.pb.dirl.v1 import reward_pb2

router = APIRouter(tags=["graders"])

_RUN_TIMEOUT_S: Final = 60.0
Grader = Annotated[
    Any, Field(description="A grader: its kind's name, or an object with name, type and options.")
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ValidateBody(_Body):
    """A grader to look at."""

    grader: Grader


class ValidatedGrader(BaseModel):
    """A grader that can be used, with all its defaults."""

    grader: dict[str, Any]


class ReferenceAnswer(_Body):
    """What the answer is compared with."""

    reference_answer: str
    gold_type: str = ""
    """Empty lets the gold's text say it."""


class RunBody(_Body):
    """A grader and one response."""

    grader: Grader
    model_sample: str
    item: ReferenceAnswer
    profile: Literal["rl", "eval"] = "eval"
    num_tokens: int = Field(0, ge=0)
    """Like the next two for graders of length and speed; 0 is unknown."""
    num_steps: int = Field(0, ge=0)
    max_new_tokens: int = Field(0, ge=0)


class GraderErrors(BaseModel):
    """Why there is no reward."""

    python_grader_runtime_error: bool
    formula_error: bool
    unverifiable: bool
    details: str | None


class RunMetadata(BaseModel):
    """How the grader went."""

    name: str
    type: str
    execution_time: float
    """Seconds."""
    errors: GraderErrors


class RunResult(BaseModel):
    """What the grader says of the response."""

    reward: float | None
    """Null when the response cannot be scored; never 0 for that."""
    sub_rewards: dict[str, float]
    """Scores of a multi grader's parts."""
    metadata: RunMetadata
    verdict: dict[str, Any]


@router.post("/v1/graders/validate")
def validate_grader(body: ValidateBody) -> ValidatedGrader:
    """Whether a grader can be used; an unknown kind is answered with the known ones."""
    return ValidatedGrader(grader=parse_grader(body.grader).model_dump(mode="json"))


@router.post("/v1/graders/run")
def run_grader(resources: Res, body: RunBody) -> RunResult:
    """Grade one response as the reward service grades a job's."""
    grader = parse_grader(body.grader)
    parts = grader.graders if isinstance(grader, MultiGrader) else {}
    item = reward_pb2.VerifyItem(
        item_id="run",
        gold=body.item.reference_answer,
        gold_type=body.item.gold_type,
        response=body.model_sample,
        finish_reason="stop",
        num_tokens=body.num_tokens,
        num_steps=body.num_steps,
        max_new_tokens=body.max_new_tokens,
    )
    asked = [
        grader,
        *(
            part.model_copy(update={"name": key})
            for key, part in parts.items()
            if key != grader.name
        ),
    ]
    request = reward_pb2.VerifyRequest(
        items=[item], graders=[grader_text(one) for one in asked], profile=body.profile
    )
    started = time.monotonic()
    verdict = verdict_from_pb(resources.fleet.grade(request, _RUN_TIMEOUT_S).verdicts[0])
    return RunResult(
        reward=verdict.rewards.get(grader.name),
        sub_rewards={name: score for name, score in verdict.rewards.items() if name != grader.name},
        metadata=RunMetadata(
            name=grader.name,
            type=grader.type,
            execution_time=time.monotonic() - started,
            errors=_errors("" if verdict.outcome.is_scored else verdict.reason),
        ),
        verdict=verdict_to_json(verdict),
    )


def _errors(reason: str) -> GraderErrors:
    return GraderErrors(
        python_grader_runtime_error=":python" in reason,
        formula_error=":formula" in reason,
        unverifiable=bool(reason),
        details=reason or None,
    )


@router.post("/v1/jobs/{job_id}/rescore")
def rescore_job(resources: Res, job_id: str, query: RescoreQuery) -> RescoreReport:
    """Judge stored trajectories again; changes nothing. What flips is listed with the advantages
    before and now.
    """
    return rescore(resources.database, job_id, query, resources.fleet.grade)
