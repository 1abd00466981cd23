"""Python graders of users: one process per grader and batch, which is killed when a call takes too
long.

services.reward.jail is the other side, and says what the process cannot do.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from services.common.grader_spec import PythonGrader
from services.reward.scores import Failure, GradingLimits, JudgedResponse, Score, Scorer

_JAIL: Final = Path(__file__).with_name("jail.py")
_START_S: Final = 10.0
_MAX_ANSWER_BYTES: Final = 4096


class _JailError(Exception):
    """The process ended, overran or said what is no answer; it must be replaced."""


def python_scorer(spec: PythonGrader) -> Scorer:
    """Scores a batch with the grader's `grade`; every failure of it is a Failure of that response
    alone.
    """

    def score(batch: Sequence[JudgedResponse], limits: GradingLimits) -> list[Score]:
        scores: list[Score] = []
        while len(scores) < len(batch) and not limits.cancellation.is_cancelled:
            scores += _score_until_lost(spec, batch[len(scores) :], limits)
        return [*scores, *[Failure("cancelled")] * (len(batch) - len(scores))]

    return score


def _score_until_lost(
    spec: PythonGrader, batch: Sequence[JudgedResponse], limits: GradingLimits
) -> list[Score]:
    """Scores from one process: of the whole batch, or up to the response that cost the process."""
    scores: list[Score] = []
    with _jailed(spec) as jail, limits.cancellation.covers(jail):
        if fault := _fault_of_source(jail):
            return [Failure("python_source", fault)] * len(batch)
        for judged in batch:
            if time.monotonic() > limits.expires_at:
                return [*scores, *[Failure("overloaded")] * (len(batch) - len(scores))]
            try:
                scores.append(_asked(jail, judged, spec.timeout_s))
            except _JailError as error:
                return [*scores, Failure("python_lost", str(error))]
    return scores


def _fault_of_source(jail: "_Jail") -> str:
    """Why the grader cannot be loaded; "" when it is. A second process would fare no better."""
    try:
        return str(jail.receive(_START_S).get("failure", ""))
    except _JailError as error:
        return f"while it was loaded: {error}"


def _asked(jail: "_Jail", judged: JudgedResponse, timeout_s: float) -> Score:
    jail.send(
        {
            "sample": {
                "output_text": judged.response,
                "answer": judged.extraction.text,
                "outcome": judged.outcome.value,
                "num_tokens": judged.num_tokens,
                "num_steps": judged.num_steps,
                "max_new_tokens": judged.max_new_tokens,
            },
            "item": {"reference_answer": judged.gold},
        }
    )
    answer = jail.receive(timeout_s)
    if isinstance(answer.get("score"), float):
        return float(answer["score"])
    return Failure("python_error", str(answer.get("failure", "no score")))


class _Jail:
    """One process and its pipes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin: IO[bytes] = process.stdin
        self._stdout: IO[bytes] = process.stdout

    def interrupt(self) -> None:
        """End the process: whoever waits for its answer gets _JailError; from any thread."""
        self._process.kill()

    def send(self, message: dict[str, Any]) -> None:
        """Ask; raises _JailError."""
        try:
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()
        except OSError as error:
            raise _JailError("the process ended") from error

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next answer; raises _JailError after `timeout_s` seconds, at the process's end and
        for nonsense.
        """
        deadline, line = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise _JailError(f"it took longer than {timeout_s:g} s")
                part = self._stdout.read1(_MAX_ANSWER_BYTES)  # type: ignore[attr-defined]
                line += part
                if not part or len(line) > _MAX_ANSWER_BYTES:
                    raise _JailError(
                        "the process ended" if not part else "the process said too much"
                    )
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise _JailError("the process said what is no answer") from error
        return answer if isinstance(answer, dict) else {}


@contextmanager
def _jailed(spec: PythonGrader) -> Iterator[_Jail]:
    """A process with the grader loaded or refused; killed at the end."""
    with tempfile.TemporaryDirectory(prefix="dirl-grader-") as directory:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_JAIL)],
            cwd=directory,
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            jail = _Jail(process)
            limits = {"memory_bytes": spec.memory_mb << 20, "cpu_s": 3600, "parent": os.getpid()}
            jail.send({"source": spec.source, **limits})
            yield jail
        finally:
            process.kill()
            process.communicate()
