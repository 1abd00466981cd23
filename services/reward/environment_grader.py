"""Score answers by the environment that made their rows, in a sandbox with its package."""

import math
import sys
import time
from pathlib import Path
from typing import Final

import services
from services.common.data.boxed import innermost, last_box
from services.common.grader_spec import EnvironmentGrader
from services.common.linear_patterns import LinearPattern
from services.reward.sandbox import (
    Call,
    SandboxBusyError,
    SandboxError,
    Setup,
    shared_sandboxes,
)
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Score, Scorer

_MODULE: Final = "services.common.environments.scoring"
_ANSWER: Final = LinearPattern(r"<answer>(.*?)</answer>", dotall=True)


def make_environment_scorer(spec: EnvironmentGrader) -> Scorer:
    """Return a scorer; a scorer of the environment that raises or runs out of time is a failure."""
    return lambda batch, limits: [_score_one(spec, graded, limits) for graded in batch]


def find_answer(response: str) -> str:
    r"""Return what the response gives as its answer, after the last `</think>`: the last
    `<answer>…</answer>`, else the last `\boxed{}`, else all of the text.
    """
    text = response.rpartition("</think>")[2]
    if tagged := _ANSWER.findall(text):
        return str(tagged[-1]).strip()
    box = last_box(text)
    return innermost(box.content) if box is not None and box.closed else text.strip()


def _score_one(spec: EnvironmentGrader, graded: GradedResponse, limits: GradingLimits) -> Score:
    problem = spec.find_problem(graded.row)
    if problem:
        return GraderFailure("missing_field", f"the row {problem}")
    name = graded.row["environment"]
    if limits.cancellation.is_cancelled:
        return GraderFailure("cancelled")
    if time.monotonic() > limits.expires_at:
        return GraderFailure("overloaded")
    call = Call(
        kind="module",
        job={"module": _MODULE, "function": "score"},
        test={
            "arguments": [
                name,
                graded.row["index"],
                {field: graded.row.get(field) for field in ("prompt", "answer", "metadata")},
                find_answer(graded.response),
            ]
        },
        cpu_s=spec.timeout_s,
        wall_s=3 * spec.timeout_s,
        memory_bytes=spec.memory_mb << 20,
    )
    try:
        with shared_sandboxes.open().lease(_make_setup(name), limits) as sandbox:
            reply = sandbox.call(call)
    except SandboxBusyError:
        return GraderFailure("overloaded")
    except SandboxError as error:
        return GraderFailure("environment_lost", str(error))
    if reply.failure:
        return GraderFailure("environment_error", reply.failure)
    if not isinstance(reply.value, int | float) or not math.isfinite(reply.value):
        return GraderFailure(
            "environment_error", f"the score is {reply.value!r:.80}; it must be a finite number"
        )
    return float(reply.value)


def _make_setup(name: str) -> Setup:
    """The sandbox sees the packages of this process and the platform's own, but not its other files."""
    platform = Path(services.__path__[0])
    packages = tuple(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    return Setup(
        directories=(*packages, str(platform)),
        path=(*packages, str(platform.parent)),
        modules=(_MODULE,),
        preparation=((_MODULE, "prepare", name),),
    )
