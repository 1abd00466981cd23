"""/v1/graders: validate a grader, or run it on one response"""

from fastapi import APIRouter

from services.api.http.resources import Res
from services.api.http.slots import HoldsHeavySlot
from services.api.schemas.graders import RunBody, RunResult, ValidateBody, ValidatedGrader
from services.api.use_cases import graders
from services.common.grader_spec import parse_grader

router = APIRouter(tags=["graders"])


@router.post("/v1/graders/validate")
def validate_grader(body: ValidateBody) -> ValidatedGrader:
    """Whether a grader can be used; for an unknown kind the error lists the known ones."""
    return ValidatedGrader(grader=parse_grader(body.grader).model_dump(mode="json"))


@router.post("/v1/graders/run")
async def run_grader(resources: Res, body: RunBody, _slot: HoldsHeavySlot) -> RunResult:
    """Grade one response as the reward service grades a job's."""
    return await resources.heavy.run(graders.run_grader, resources, body)
