"""Running a grader on one response."""

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from services.api.schemas.graders import GraderErrors, RunBody, RunMetadata, RunResult
from services.api.use_cases.control_plane import ControlPlane
from services.common.codec import verdict_from_pb, verdict_to_json
from services.common.data.fields import render_reference_answer
from services.common.data.row_errors import FieldError
from services.common.grader_spec import (
    MultiGrader,
    grader_text,
    max_grading_seconds,
    parse_grader,
)
from services.common.pb.dirl.v1 import reward_pb2

_TIMEOUT_S: Final = 60.0


def run_grader(plane: ControlPlane, body: RunBody) -> RunResult:
    """Grade one response as the reward service grades a job's; raises PlatformError."""
    grader = parse_grader(body.grader)
    parts = grader.graders if isinstance(grader, MultiGrader) else {}
    # A multi grader tells only its own score: its parts are asked for by their keys, too.
    named = [
        part.model_copy(update={"name": key}) for key, part in parts.items() if key != grader.name
    ]
    item = reward_pb2.VerifyItem(
        item_id="run",
        reference_answer=_read_reference_answer(body.item),
        answer_type=str(body.item.get("answer_type", "")),
        response=body.model_sample,
        finish_reason="stop",
        num_tokens=body.num_tokens,
        num_steps=body.num_steps,
        max_new_tokens=body.max_new_tokens,
        row=0,
    )
    request = reward_pb2.VerifyRequest(
        items=[item],
        graders=[grader_text(each) for each in (grader, *named)],
        profile=body.profile,
        rows=[json.dumps(body.item)],
    )
    started = time.monotonic()
    timeout_s = _TIMEOUT_S + max_grading_seconds(tuple(request.graders), 1)
    verdict = verdict_from_pb(plane.fleet.grade(request, timeout_s).verdicts[0])
    return RunResult(
        reward=verdict.rewards.get(grader.name),
        sub_rewards={name: score for name, score in verdict.rewards.items() if name != grader.name},
        metadata=RunMetadata(
            name=grader.name,
            type=grader.type,
            execution_time=time.monotonic() - started,
            errors=_to_errors("" if verdict.outcome.is_scored else verdict.reason),
        ),
        verdict=verdict_to_json(verdict),
    )


def _read_reference_answer(item: Mapping[str, Any]) -> str:
    """The reference answer as text; empty where there is none that a response could be compared with."""
    try:
        return render_reference_answer(item["reference_answer"])
    except (KeyError, FieldError):
        return ""


def _to_errors(reason: str) -> GraderErrors:
    return GraderErrors(
        python_grader_runtime_error=":python" in reason,
        formula_error=":formula" in reason,
        unverifiable=bool(reason),
        details=reason or None,
    )
