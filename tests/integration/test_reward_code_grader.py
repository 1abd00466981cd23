"""Programs of responses against the tests of their rows: what passes, and what only pretends to."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import pytest

from benchmarks.reward_programs import HOSTILE, measure
from services.common.grader_spec import grader_text, parse_grader
from services.common.job_spec.grading import RewardSpec
from services.common.trajectory import Outcome
from services.reward.extraction import Extraction
from services.reward.graders import make_graders, make_scorer, score_all
from services.reward.sandbox import SandboxPool
from services.reward.scores import (
    ExplainedScore,
    GradedResponse,
    GraderFailure,
    GradingLimits,
    Score,
    drop_explanation,
)
from tests.support.sandboxes import MODES, shared

HUMANEVAL = {
    "prompt": 'def add(a, b):\n    """Add."""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
}
STDIN = {"tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6\n", "output": "11"}]}
MBPP = {"test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]}
CALLS = {
    "public_test_cases": json.dumps([{"input": "1\n2", "output": "3", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "add"}),
}
SCRIPT = "a, b = map(int, input().split())\nprint(a + b)"
GUARDED_SCRIPT = """
def main():
    print(sum(map(int, sys.stdin.readline().split())))
if __name__ == "__main__":
    main()
"""
FUNCTION = "def add(a, b):\n    return a + b"
SOLUTION = "class Solution:\n    def add(self, a: int, b: Optional[int]) -> List[int]:\n        return a + b"


@pytest.fixture(scope="module", params=MODES, autouse=True)
def sandboxes(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    with shared(request.param) as pool:
        yield pool


def grade(
    response: str, item: Mapping[str, Any], limits: GradingLimits | None = None, **options: Any
) -> Score:
    return drop_explanation(grade_explained(response, item, limits, **options))


def grade_explained(
    response: str, item: Mapping[str, Any], limits: GradingLimits | None = None, **options: Any
) -> Score | ExplainedScore:
    spec = parse_grader({"name": "code", "timeout_s": 1.0, **options})
    graded = GradedResponse(
        response=response, extraction=Extraction(), outcome=Outcome.SCORED, row=item
    )
    (score,) = make_scorer(spec)([graded], limits or GradingLimits())
    return score


@pytest.mark.parametrize(
    ("response", "item"),
    [
        (f"Sure:\n```python\n{FUNCTION}\n```", HUMANEVAL),
        ("    return a + b", HUMANEVAL),
        (SCRIPT, STDIN),
        ("import sys\nsys.exit(print(sum(map(int, open(0).read().split()))))", STDIN),
        (GUARDED_SCRIPT, STDIN),
        (FUNCTION, MBPP),
        (SOLUTION, CALLS),
        (FUNCTION, CALLS),
    ],
)  # fmt: skip
def test_a_right_program_passes(response: str, item: dict[str, Any]) -> None:
    assert grade(response, item) == 1.0


@pytest.mark.parametrize("item", [HUMANEVAL, STDIN, MBPP, CALLS])
@pytest.mark.parametrize(
    "response",
    [
        "",
        "def add(",
        "def add(a, b): return a - b",
        "print(0)",
        "raise SystemExit",
        "def add(a, b): raise SystemExit(0)",
        "import os; os._exit(0)",
        "def add(a, b):\n    import os; os._exit(0)",
        "while True: pass",
        "import atexit, os\natexit.register(lambda: os._exit(0))\nprint(3)",
        'import os\nos.write(3, b\'L{"value": 3, "token": ""}\')\nos._exit(0)',
        "import os\nos.write(3, b'{\"value\": 3}')",
    ],
)
def test_a_wrong_program_fails_however_it_ends(response: str, item: dict[str, Any]) -> None:
    assert grade(response, item) == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "class Any:\n    def __eq__(self, other): return True\ndef add(a, b): return Any()",
        "class Three(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Three(7)",
        "import builtins\nbuiltins.AssertionError = None\ndef add(a, b): return 7",
    ],
)
def test_values_that_claim_to_be_equal_are_not_believed_where_they_are_compared_outside(
    response: str,
) -> None:
    assert grade(response, MBPP) == 0.0
    assert grade(response, CALLS) == 0.0


def test_the_share_of_passed_tests_and_a_limit_on_their_number() -> None:
    response = "a, b = map(int, input().split())\nprint(3)"
    assert grade(response, STDIN) == 0.0
    assert grade(response, STDIN, score="share") == 0.5
    assert grade(response, STDIN, max_tests=1) == 1.0


def test_the_result_of_each_test_is_said() -> None:
    response = "a, b = map(int, input().split())\nprint(3)"
    share = grade_explained(response, STDIN, score="share")
    every = grade_explained("print(4)", STDIN)
    many = grade_explained("print(3)", {"tests": [{"output": "3"}] * 30})

    assert share == ExplainedScore(0.5, "test 1: passed\ntest 2: it gave '3\\n', not '11'")
    assert every == ExplainedScore(0.0, "test 1: it gave '4\\n', not '3\\n'\n1 more were not run")
    assert isinstance(many, ExplainedScore)
    assert many.explanation.splitlines()[-1] == "… and 10 more lines"


def test_a_template_wraps_an_expression() -> None:
    item = {"tests": [{"output": "42"}]}
    assert grade("6 * 7", item, program="print({{ sample.output_text }})") == 1.0
    assert grade("6 * 8", item, program="print({{ sample.output_text }})") == 0.0


def test_limits_of_time_and_memory_are_those_of_the_spec() -> None:
    item = {"tests": [{"output": "1"}]}
    slow = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\nprint(1)"
    assert (grade(slow, item, timeout_s=0.1), grade(slow, item, timeout_s=2.0)) == (0.0, 1.0)
    large = "x = bytearray(100 << 20)\nprint(1)"
    assert (grade(large, item, memory_mb=64), grade(large, item, memory_mb=256)) == (0.0, 1.0)


def test_a_row_without_tests_is_a_failure_and_not_a_zero() -> None:
    score = grade("print(1)", {"prompt": "x"})
    assert isinstance(score, GraderFailure)
    assert score.reason == "missing_field"


def test_expired_limits_are_no_failure_of_the_program() -> None:
    assert grade(SCRIPT, STDIN, GradingLimits(time.monotonic() - 1)) == GraderFailure("overloaded")


def test_hostile_programs_among_right_and_wrong_ones_change_nothing(sandboxes: SandboxPool) -> None:
    """The benchmark in docs/benchmarks.md, reduced."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    result = measure(4 * (len(HOSTILE) + 8), sandboxes)
    assert result["wrong_verdicts"] == 0
    assert result["escapes"] == 0
    assert result["left_processes"] == 0
    assert (
        len({child.pid for child in psutil.Process().children(recursive=True)} - before)
        <= 2 * sandboxes.size
    )


def test_speed_behind_another_grader_needs_no_reference_answer() -> None:
    """As a job sends the graders, and a service scores them."""
    spec = RewardSpec.model_validate(
        {"graders": [{"name": "code"}, {"name": "speed", "only_if": "code", "weight": 0.5}]}
    )
    graders = make_graders([grader_text(grader) for grader in spec.graders])
    graded = GradedResponse(
        response=SCRIPT,
        extraction=Extraction(),
        outcome=Outcome.SCORED,
        row=STDIN,
        num_tokens=12,
        num_steps=6,
    )
    (grades,) = score_all(graders, [graded], GradingLimits())

    assert grades.scores == {"code": 1.0, "speed": 0.5}
