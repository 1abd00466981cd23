"""Graders in Python: what they may compute, and that the kernel refuses the rest."""

import errno
import subprocess
import threading
import time
from typing import Any

import psutil
import pytest

from services.common.grader_spec import parse_grader
from services.common.trajectory import Outcome
from services.reward import sandbox
from services.reward.cancellation import Cancellation
from services.reward.extraction import Extraction
from services.reward.graders import make_scorer
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Score

RESPONSE = GradedResponse(
    response=r"so \boxed{5}",
    extraction=Extraction("5", "boxed"),
    outcome=Outcome.CORRECT,
    reference_answer="5",
    num_tokens=7,
    row={"metadata": {"level": 3}},
)


def run(
    body: str,
    *,
    setup: str = "",
    count: int = 1,
    limits: GradingLimits | None = None,
    **options: Any,
) -> list[Score]:
    source = f"{setup}\ndef grade(sample, item):\n    {body}\n"
    grader = parse_grader({"name": "g", "type": "python", "source": source, **options})
    return make_scorer(grader)([RESPONSE] * count, limits or GradingLimits())


def test_a_grader_sees_the_response_and_the_reference_answer() -> None:
    body = "return sample['num_tokens'] + float(sample['answer'] == item['reference_answer'])"
    assert run(body, count=2) == [8.0, 8.0]


def test_a_grader_sees_the_row() -> None:
    body = "return item['metadata']['level'] + len(sample['finish_reason'])"
    assert run(body) == [3.0 + len("stop")]


def test_the_mathematics_of_the_standard_library_is_there() -> None:
    setup = "import math, re, fractions, statistics, json, difflib, collections"
    assert run(
        "return math.sqrt(len(re.findall('5', sample['output_text']))) * 4", setup=setup
    ) == [4.0]


@pytest.mark.parametrize(
    "body",
    [
        "return len(open('/etc/passwd').read())",
        "open('note', 'w').write('x')",
        "import os; os.fork()",
        "import os; os.kill(os.getpid(), 0)",
        "import os; os.listdir('/')",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.unlink('x')",
    ],
)
def test_the_kernel_refuses_what_leaves_the_process(body: str) -> None:
    (score,) = run(body)
    assert isinstance(score, GraderFailure)
    assert "PermissionError" in score.detail


def test_a_socket_made_without_python_is_refused_for_want_of_permission() -> None:
    body = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.socket(2, 1, 0); return ctypes.get_errno()"
    assert run(body) == [float(errno.EPERM)]


def test_the_environment_of_the_service_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRL_DATABASE_URL", "secret")
    assert run("import os; return len([v for v in os.environ.values() if 'secret' in v])") == [0.0]


def test_memory_is_limited_and_the_next_response_is_graded() -> None:
    scores = run("return len('x' * 10**10)", count=2)
    assert [
        isinstance(score, GraderFailure) and "MemoryError" in score.detail for score in scores
    ] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    "body", ["while True: pass", "import time; time.sleep(60); return 1", "import os; os._exit(0)"]
)
def test_a_call_that_does_not_come_back_costs_its_response_and_no_process(body: str) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    scores = run(
        f"if not SEEN:\n        SEEN.append(1)\n        {body}\n    return 1.0",
        setup="SEEN = []",
        timeout_s=0.3,
    )
    assert scores[0] == GraderFailure(
        "python_lost", scores[0].detail if isinstance(scores[0], GraderFailure) else ""
    )
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("return 'good'", "finite number"),
        ("return float('nan')", "finite number"),
        ("return 1 / 0", "ZeroDivisionError"),
        ("raise SystemExit", "SystemExit"),
        ("import socket", "socket"),
    ],
)
def test_what_is_no_number_is_a_failure_with_its_cause(body: str, detail: str) -> None:
    (score,) = run(body)
    assert isinstance(score, GraderFailure)
    assert (score.reason, detail in score.detail) == ("python_error", True)


def test_what_the_code_writes_is_no_score() -> None:
    (score,) = run("import os; os.write(1, b'{\"score\": 9' * 9999); return 1.0")
    assert isinstance(score, GraderFailure)


def test_code_that_cannot_be_loaded_fails_every_response() -> None:
    scores = run("return 1", setup="import numpy", count=2)
    assert [score.reason for score in scores if isinstance(score, GraderFailure)] == [
        "python_source"
    ] * 2


def test_code_that_never_ends_loading_costs_one_wait_and_not_one_for_every_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "_START_S", 1.0)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **kw: started.append(args) or popen(*args, **kw)
    )
    scores = run("return 1", setup="while True: pass", count=50)
    assert (
        scores
        == [GraderFailure("python_source", "while loading the source: it took longer than 1 s")]
        * 50
    )
    assert len(started) == 1


def test_what_is_not_begun_in_time_fails_as_overloaded() -> None:
    assert (
        run("return 1", count=2, limits=GradingLimits(time.monotonic() - 1))
        == [GraderFailure("overloaded")] * 2
    )


@pytest.mark.parametrize(
    ("setup", "body"), [("while True: pass", "return 1"), ("", "while True: pass")]
)
def test_a_caller_that_hangs_up_ends_the_process_before_its_deadline(setup: str, body: str) -> None:
    cancellation = Cancellation()
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    hang_up = threading.Timer(1.0, cancellation.cancel)
    hang_up.start()
    scores = run(
        body, setup=setup, count=2, limits=GradingLimits(cancellation=cancellation), timeout_s=30.0
    )
    assert isinstance(scores[0], GraderFailure)
    assert "the process ended" in scores[0].detail
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before


def test_a_call_cancelled_before_it_begins_scores_nothing() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    assert (
        run("return 1", count=2, limits=GradingLimits(cancellation=cancellation))
        == [GraderFailure("cancelled")] * 2
    )
