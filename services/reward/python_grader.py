"""Score responses by Python of the user, in a sandbox; an error costs the response that caused it."""

import math
import sysconfig
import time
from collections.abc import Sequence
from typing import Final

from services.common.grader_spec import PythonGrader
from services.reward.sandbox import (
    Call,
    SandboxBusyError,
    SandboxError,
    Setup,
    shared_sandboxes,
)
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Score, Scorer

_PACKAGES: Final = sysconfig.get_path("purelib")
"""Where the packages of this service are."""


def make_python_scorer(spec: PythonGrader) -> Scorer:
    """Return a scorer that calls `grade` of the source; an error is a GraderFailure of that response only."""

    # Imported before the sandbox closes, so that they work where it lets no file be read.
    directories = (_PACKAGES,) if spec.packages else ()
    setup = Setup(directories=directories, path=directories, modules=spec.packages)

    def score(batch: Sequence[GradedResponse], limits: GradingLimits) -> list[Score]:
        scores: list[Score] = []
        while len(scores) < len(batch):
            scores.append(_score_one(spec, setup, batch[len(scores)], limits))
            # Not retried with the next response: the same source would fail again.
            if isinstance(scores[-1], GraderFailure) and scores[-1].reason == "python_source":
                return [scores[-1]] * len(batch)
        return scores

    return score


def _score_one(
    spec: PythonGrader, setup: Setup, graded: GradedResponse, limits: GradingLimits
) -> Score:
    if limits.cancellation.is_cancelled:
        return GraderFailure("cancelled")
    if time.monotonic() > limits.expires_at:
        return GraderFailure("overloaded")
    call = Call(
        kind="grade",
        job={"source": spec.source},
        test={"sample": graded.to_sample(), "item": graded.to_item()},
        cpu_s=spec.timeout_s,
        wall_s=spec.timeout_s,
        memory_bytes=spec.memory_mb << 20,
    )
    try:
        with shared_sandboxes.open().lease(setup, limits) as sandbox:
            reply = sandbox.call(call)
    except SandboxBusyError:
        return GraderFailure("overloaded")
    except SandboxError as error:
        return GraderFailure("python_lost", str(error))
    if reply.failure and not reply.loaded:
        return GraderFailure("python_source", f"while loading the source: {reply.failure}")
    if reply.failure:
        return GraderFailure("python_error" if reply.replied else "python_lost", reply.failure)
    # The value is untrusted, too: `grade` shares its process with the code that checks what it returns.
    if not isinstance(reply.value, int | float) or not math.isfinite(reply.value):
        return GraderFailure(
            "python_error", f"the result is {reply.value!r:.80}; it must be a finite number"
        )
    return float(reply.value)
