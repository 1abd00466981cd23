"""Run Python graders of users: one process per grader and batch, which is killed at a timeout.

services.reward.jail is the code of that process and documents its restrictions.
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
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Score, Scorer

_JAIL: Final = Path(__file__).with_name("jail.py")
_START_S: Final = 10.0
_MAX_REPLY_BYTES: Final = 4096


class _JailError(Exception):
    """The process ended, exceeded its timeout or sent an invalid reply; it must be replaced."""


def make_python_scorer(spec: PythonGrader) -> Scorer:
    """Return a scorer that calls `grade` of the source; an error is a GraderFailure of that response only."""

    def score(batch: Sequence[GradedResponse], limits: GradingLimits) -> list[Score]:
        scores: list[Score] = []
        while len(scores) < len(batch) and not limits.cancellation.is_cancelled:
            scores += _score_until_lost(spec, batch[len(scores) :], limits)
        return [*scores, *[GraderFailure("cancelled")] * (len(batch) - len(scores))]

    return score


def _score_until_lost(
    spec: PythonGrader, batch: Sequence[GradedResponse], limits: GradingLimits
) -> list[Score]:
    """Score with one process: the whole batch, or up to the response that made the process fail."""
    scores: list[Score] = []
    with _open_jail(spec) as jail, limits.cancellation.covers(jail):
        try:
            fault = str(jail.receive(_START_S).get("failure", ""))
        except _JailError as error:
            fault = f"while loading the source: {error}"
        # Not retried with the next response: the same source would fail again.
        if fault:
            return [GraderFailure("python_source", fault)] * len(batch)
        for graded in batch:
            if time.monotonic() > limits.expires_at:
                return [*scores, *[GraderFailure("overloaded")] * (len(batch) - len(scores))]
            try:
                scores.append(_score_one(jail, graded, spec.timeout_s))
            except _JailError as error:
                return [*scores, GraderFailure("python_lost", str(error))]
    return scores


def _score_one(jail: "_Jail", graded: GradedResponse, timeout_s: float) -> Score:
    jail.send({"sample": graded.to_sample(), "item": graded.to_item()})
    reply = jail.receive(timeout_s)
    if isinstance(reply.get("score"), float):
        return float(reply["score"])
    return GraderFailure("python_error", str(reply.get("failure", "no score")))


class _Jail:
    """A process and its pipes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin: IO[bytes] = process.stdin
        self._stdout: IO[bytes] = process.stdout

    def interrupt(self) -> None:
        """Kill the process, so that `receive` raises _JailError. May be called from any thread."""
        self._process.kill()

    def send(self, message: dict[str, Any]) -> None:
        """Send a request; raises _JailError."""
        try:
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()
        except OSError as error:
            raise _JailError("the process ended") from error

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next reply; raises _JailError at the timeout, when the process ends, and for an
        invalid reply.
        """
        deadline, line = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise _JailError(f"it took longer than {timeout_s:g} s")
                part = self._stdout.read1(_MAX_REPLY_BYTES)  # type: ignore[attr-defined]
                line += part
                if not part or len(line) > _MAX_REPLY_BYTES:
                    raise _JailError("the process ended" if not part else "the reply is too long")
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise _JailError("the reply is not valid JSON") from error
        return reply if isinstance(reply, dict) else {}


@contextmanager
def _open_jail(spec: PythonGrader) -> Iterator[_Jail]:
    """Start a process that loads the grader; it is killed at the end of the block."""
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
