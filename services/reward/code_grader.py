"""Run the programs of responses against the tests of their rows, in sandboxes, several at a time."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from services.common.data.program_tests import (
    ProgramTest,
    complete_program,
    outputs_match,
    read_program_tests,
    values_match,
)
from services.common.grader_spec import CodeGrader
from services.common.templates import MissingFieldError, fill_in
from services.reward.jail import to_comparable
from services.reward.sandbox import (
    Call,
    Reply,
    SandboxBusyError,
    SandboxError,
    Setup,
    shared_sandboxes,
)
from services.reward.scores import (
    ExplainedScore,
    GradedResponse,
    GraderFailure,
    GradingLimits,
    Score,
    Scorer,
)

_SETUP: Final = Setup()
_WALL_PER_CPU: Final = 3.0
"""Wall time of a test, as a multiple of its CPU time: a busy machine must not fail a program."""
_MAX_LOST: Final = 2
"""Sandboxes that one test may lose before its response cannot be graded."""
_MAX_TESTS_SHOWN: Final = 20


def make_code_scorer(spec: CodeGrader) -> Scorer:
    """Return a scorer that runs programs; a program that fails its tests scores 0, whatever it did."""

    def score(
        batch: Sequence[GradedResponse], limits: GradingLimits
    ) -> list[Score | ExplainedScore]:
        with ThreadPoolExecutor(shared_sandboxes.open().size) as threads:
            return list(threads.map(lambda graded: _score_one(spec, graded, limits), batch))

    return score


def _score_one(
    spec: CodeGrader, graded: GradedResponse, limits: GradingLimits
) -> Score | ExplainedScore:
    item = graded.to_item()
    try:
        tests = read_program_tests(item)[: spec.max_tests]
        program = fill_in(spec.program, {"sample": graded.to_sample(), "item": item})
    except (ValueError, MissingFieldError) as error:
        return GraderFailure("missing_field", f"the row {error}")
    program = complete_program(program, item)
    results: list[str] = []
    for test in tests:
        result = run_test(spec, program, test, limits)
        if isinstance(result, GraderFailure):
            return result
        results.append(result)
        if result and spec.score == "all":
            return ExplainedScore(0.0, _explain(results, len(tests)))
    return ExplainedScore(results.count("") / len(tests), _explain(results, len(tests)))


def _explain(results: Sequence[str], count: int) -> str:
    """Return a line for each test, bounded: it is recorded with the response."""
    lines = [f"test {number}: {result or 'passed'}" for number, result in enumerate(results, 1)]
    if len(results) < count:
        lines.append(f"{count - len(results)} more were not run")
    shown = lines[:_MAX_TESTS_SHOWN]
    if len(lines) > len(shown):
        shown.append(f"… and {len(lines) - len(shown)} more lines")
    return "\n".join(shown)


def run_test(
    spec: CodeGrader, program: str, test: ProgramTest, limits: GradingLimits
) -> str | GraderFailure:
    """Return why the program fails the test, or "" if it passes it."""
    call = Call(
        kind=test.kind,
        job={"source": program, "stdin": test.stdin},
        test=_to_fields(test),
        cpu_s=spec.timeout_s,
        wall_s=_WALL_PER_CPU * spec.timeout_s,
        memory_bytes=spec.memory_mb << 20,
    )
    for _ in range(_MAX_LOST):
        if limits.cancellation.is_cancelled:
            return GraderFailure("cancelled")
        if time.monotonic() > limits.expires_at:
            return GraderFailure("overloaded")
        try:
            with shared_sandboxes.open().lease(_SETUP, limits) as sandbox:
                return _compare(test, sandbox.call(call))
        except SandboxBusyError:
            return GraderFailure("overloaded")
        except SandboxError as error:
            lost = str(error)
    return GraderFailure("sandbox_lost", lost)


def _to_fields(test: ProgramTest) -> Mapping[str, Any]:
    """Return what the process that runs the program is sent: never the expected result."""
    return {"function": test.function, "arguments": test.arguments, "code": test.code}


def _compare(test: ProgramTest, reply: Reply) -> str:
    if reply.failure:
        return reply.failure
    match test.kind:
        case "program":
            found, matches = reply.stdout, outputs_match(reply.stdout, test.expected)
        case "function":
            found, matches = reply.value, values_match(reply.value, test.expected)
        case "expression":
            found, matches = reply.value, reply.value == to_comparable(test.expected)
        case "assertions":
            return ""
    return "" if matches else f"it gave {str(found)[:200]!r}, not {str(test.expected)[:200]!r}"
