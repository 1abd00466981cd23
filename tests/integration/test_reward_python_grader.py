"""Graders in Python: what they see and return, and that a failure costs one response and no more."""

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from services.common.codec import verdict_from_pb, verdict_to_pb
from services.common.errors import PlatformError
from services.common.grader_spec import parse_grader
from services.common.trajectory import FinishReason, Outcome
from services.reward.cancellation import Cancellation
from services.reward.endpoints import Endpoints
from services.reward.extraction import Extraction, Profile
from services.reward.graders import Grader, Installation, make_scorer, score_all
from services.reward.pool import Pool, PoolConfig
from services.reward.sandbox import SandboxPool
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Score
from services.reward.verifier import Item, Verifier
from tests.support.sandboxes import MODES, shared

RESPONSE = GradedResponse(
    response=r"so \boxed{5}",
    extraction=Extraction("5", "boxed"),
    outcome=Outcome.CORRECT,
    reference_answer="5",
    num_tokens=7,
    row={"metadata": {"level": 3}},
)
UNPRINTABLE = "class E(Exception):\n            def __str__(self): raise self\n        raise E"
BAD, GOOD = replace(RESPONSE, response="bad"), replace(RESPONSE, response="good")


@pytest.fixture(scope="module", params=MODES, autouse=True)
def sandboxes(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    with shared(request.param) as pool:
        yield pool


def run(
    body: str,
    *batch: GradedResponse,
    setup: str = "",
    limits: GradingLimits | None = None,
    **options: Any,
) -> list[Score]:
    source = f"{setup}\ndef grade(sample, item):\n    {body}\n"
    grader = parse_grader({"name": "g", "type": "python", "source": source, **options})
    return make_scorer(grader)(batch or (RESPONSE,), limits or GradingLimits())


def test_a_grader_sees_the_response_and_the_reference_answer() -> None:
    body = "return sample['num_tokens'] + float(sample['answer'] == item['reference_answer'])"
    assert run(body, RESPONSE, RESPONSE) == [8.0, 8.0]


def test_a_grader_sees_the_row() -> None:
    body = "return item['metadata']['level'] + len(sample['finish_reason'])"
    assert run(body) == [3.0 + len("stop")]


def test_the_mathematics_of_the_standard_library_is_there() -> None:
    setup = "import math, re, fractions, statistics, json, difflib, collections"
    assert run(
        "return math.sqrt(len(re.findall('5', sample['output_text']))) * 4", setup=setup
    ) == [4.0]


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        ("return 'good'", "python_error", "finite number"),
        ("return None", "python_error", "finite number"),
        ("return float('nan')", "python_error", "finite number"),
        ("return float('-inf')", "python_error", "finite number"),
        ("return 10**400", "python_error", "OverflowError"),
        ("return [1.0]", "python_error", "finite number"),
        ("return 1 / 0", "python_error", "ZeroDivisionError"),
        ("raise SystemExit", "python_error", "SystemExit"),
        ("raise Exception('\\ud800')", "python_error", "Exception: ?"),
        ("raise Exception('\\0')", "python_error", "Exception: \0"),
        (UNPRINTABLE, "python_lost", "without a result"),
        ("return len('x' * 10**10)", "python_error", "MemoryError"),
        ("import os; os._exit(0)", "python_lost", "without a result"),
        ("while True: pass", "python_lost", "longer than its time limit"),
        ("import time; time.sleep(60)", "python_lost", "longer than its time limit"),
        ("import ctypes; ctypes.string_at(0)", "python_lost", "SIGSEGV"),
        ("import os; os.write(3, b'{\"score\": NaN}')", "python_error", "wrote to its result channel"),
        ("import os; os.write(3, b'{\"value\": NaN}\\n'); os._exit(0)", "python_error", "wrote to its result channel"),
        ("import os; os.write(3, b'{\"value\": 1.0}\\n'); return 0.5", "python_error", "wrote to its result channel"),
        ("import json; json.dumps = lambda *_: '{}'; return 0.5", "python_error", "wrote to its result channel"),
        ("import math; math.isfinite = lambda _: True; return float('nan')", "python_error", "finite number"),
        ("import builtins; builtins.float = lambda _: 'text'; return 1", "python_error", "TypeError"),
    ],
)  # fmt: skip
def test_a_failure_costs_its_response_and_is_no_number(body: str, reason: str, detail: str) -> None:
    guarded = f"if sample['output_text'] == 'bad':\n        {body}\n    return 1.0"
    before, bad, after = run(guarded, GOOD, BAD, GOOD, timeout_s=0.5)
    assert (before, after) == (1.0, 1.0)
    assert isinstance(bad, GraderFailure), bad
    assert bad.reason == reason
    assert detail in bad.detail
    bad.detail.encode()


def test_what_a_grader_prints_is_no_score() -> None:
    assert run("import os; print('{\"value\": 9}'); os.write(1, b'9'); return 1.0") == [1.0]


def test_each_response_is_graded_as_if_it_were_the_only_one() -> None:
    assert run("SEEN.append(1); return len(SEEN)", GOOD, GOOD, setup="SEEN = []") == [1.0, 1.0]


@pytest.mark.parametrize(
    "setup",
    ["import numpy", "1 / 0", "raise SystemExit", "while True: pass", "import os; os._exit(0)"],
)
def test_a_source_that_cannot_be_loaded_is_tried_once(setup: str) -> None:
    started = time.monotonic()
    scores = run("return 1", *[RESPONSE] * 50, setup=setup, timeout_s=0.5)
    assert {score.reason for score in scores if isinstance(score, GraderFailure)} == {
        "python_source"
    }
    assert len(scores) == 50
    assert time.monotonic() - started < 10


def test_what_is_not_begun_in_time_fails_as_overloaded() -> None:
    limits = GradingLimits(time.monotonic() - 1)
    assert run("return 1", GOOD, GOOD, limits=limits) == [GraderFailure("overloaded")] * 2


def test_a_busy_pool_fails_as_overloaded(sandboxes: SandboxPool) -> None:
    limits = GradingLimits(time.monotonic() + 0.3)
    for _ in range(sandboxes.size):
        sandboxes._free.acquire()
    try:
        assert run("return 1", limits=limits) == [GraderFailure("overloaded")]
    finally:
        sandboxes._free.release(sandboxes.size)


@pytest.mark.parametrize(
    ("setup", "body"), [("while True: pass", "return 1"), ("", "while True: pass")]
)
def test_a_caller_that_hangs_up_ends_the_process_before_its_deadline(setup: str, body: str) -> None:
    cancellation = Cancellation()
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    threading.Timer(0.5, cancellation.cancel).start()
    started = time.monotonic()
    limits = GradingLimits(cancellation=cancellation)
    scores = run(body, GOOD, GOOD, setup=setup, limits=limits, timeout_s=30.0)
    assert time.monotonic() - started < 10
    assert isinstance(scores[0], GraderFailure)
    assert "the sandbox ended" in scores[0].detail
    assert scores[1] == GraderFailure("cancelled")
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_a_score_of_any_grader_that_is_not_finite_is_a_failure() -> None:
    grader = Grader("g", lambda batch, _limits: [math.nan, math.inf, 1.0], uses_correctness=False)
    grades = score_all([grader], [GOOD] * 3, GradingLimits())
    scores = [one.scores["g"] for one in grades]
    assert [isinstance(score, GraderFailure) and score.reason for score in scores[:2]] == [
        "not_finite"
    ] * 2
    assert scores[2] == 1.0


def test_a_grader_that_fails_as_a_whole_fails_no_other_one() -> None:
    def fail(batch: Any, limits: Any) -> list[Score]:
        raise RuntimeError("a defect \ud800")

    graders = [
        Grader("broken", fail, uses_correctness=False),
        Grader("short", lambda batch, _limits: [1.0], uses_correctness=False),
        Grader("sound", lambda batch, _limits: [0.5] * len(batch), uses_correctness=False),
    ]
    for grades in score_all(graders, [GOOD, BAD], GradingLimits()):
        broken, short = grades.scores["broken"], grades.scores["short"]
        assert isinstance(broken, GraderFailure)
        assert broken.detail == r"RuntimeError('a defect \ud800')"
        assert short == GraderFailure("internal_error", "1 scores for 2 responses")
        assert grades.scores["sound"] == 0.5
        assert grades.seconds.keys() == {"broken", "short", "sound"}


def test_a_declared_package_that_the_operator_allows_can_be_imported() -> None:
    source = (
        "import rapidfuzz\ndef grade(sample, item): return rapidfuzz.fuzz.ratio('ab', 'ab') / 100"
    )
    spec = parse_grader(
        {"name": "g", "type": "python", "source": source, "packages": ["rapidfuzz"]}
    )
    allowed = Installation(Endpoints({}), frozenset({"rapidfuzz"}))
    assert make_scorer(spec, allowed)([GOOD, BAD], GradingLimits()) == [1.0, 1.0]

    undeclared = parse_grader({"name": "g", "type": "python", "source": source})
    for score in make_scorer(undeclared, allowed)([GOOD], GradingLimits()):
        assert isinstance(score, GraderFailure)
        assert "rapidfuzz" in score.detail


def test_a_package_that_the_operator_does_not_allow_is_refused() -> None:
    source = "def grade(sample, item): return 1"
    spec = parse_grader({"name": "g", "type": "python", "source": source, "packages": ["numpy"]})
    with pytest.raises(PlatformError, match="import numpy; it allows: scipy") as caught:
        make_scorer(spec, Installation(Endpoints({}), frozenset({"scipy"})))
    assert caught.value.code == "invalid_request"


def test_the_verdict_of_a_failed_response_can_be_sent_and_its_neighbours_are_graded() -> None:
    source = (
        "def grade(sample, item):\n    if 'bad' in sample['output_text']: raise Exception('\\ud800')\n"
        "    return 1.0"
    )
    spec = parse_grader({"name": "g", "type": "python", "source": source})
    graders = [Grader("g", make_scorer(spec), uses_correctness=False)]
    pool = Pool(PoolConfig(workers=1))
    pool.start()
    try:
        items = [Item(text, "", text, FinishReason.STOP) for text in ("good", "bad", "good")]
        verdicts = Verifier(pool, cache_size=1).verify(
            items, graders, Profile.RL, timeout_s=3, expires_at=math.inf
        )
    finally:
        pool.close()
    sent = [verdict_from_pb(verdict_to_pb(verdict)) for verdict in verdicts]
    assert [verdict.outcome for verdict in sent] == [
        Outcome.SCORED,
        Outcome.UNVERIFIABLE,
        Outcome.SCORED,
    ]
    assert sent[1].reason.startswith("grader:g:python_error (Exception: ?")
    assert [verdict.rewards for verdict in sent] == [{"g": 1.0}, {}, {"g": 1.0}]
