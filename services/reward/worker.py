"""A worker process: compares one pair at a time, with a memory limit.

The serving process has it killed at the deadline, because C code cannot be interrupted. Sums,
products, integrals and limits may run forever, so these also get a budget of CPU time below the
deadline, at which the worker stops on its own and need not be replaced.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from services.common.answers.answer_types import AnswerType
from services.common.linear_patterns import LinearPattern
from services.reward import wire
from services.reward.comparator import compare
from services.reward.comparison_request import ComparisonRequest
from services.reward.extraction import Profile

_PR_SET_PDEATHSIG: Final = 1
_GROWTH_SHARE: Final = 0.2
"""A rejected answer that made the address space grow by this share of the limit ran out of memory,
because math-verify swallows MemoryError. Ordinary comparisons need a tenth of it. (A single
allocation beyond the limit leaves no trace and counts as incorrect; the guard rejects such answers
beforehand, and both outcomes score the same.)
"""
_MAX_DETAIL: Final = 200
_ENDLESS: Final = LinearPattern(r"\\(?:sum|prod|i{0,3}int|oint|lim)(?![a-z])")
_ENDLESS_SHARE: Final = 0.5
"""CPU time of an answer with such an operator, as a share of the deadline; those that terminate need a third of it."""
_REPEAT_S: Final = 0.2
"""Interval of further interruptions, because math-verify may swallow the first one."""
_SELF_TEST: Final = (
    (r"\frac{1}{2}", "0.5", "correct"), ("x+1", "1+x", "correct"), ("2", "3", "incorrect"),
    (r"\sum_{k=1}^{3} k", "6", "correct"),
)  # fmt: skip


class _CpuSpentError(BaseException):
    """The budget of CPU time is exhausted. A BaseException, so that no `except Exception` swallows it."""


def run(end: socket.socket, memory_bytes: int, parent: int) -> None:
    """Set limits, run the self-test, report it, and answer until the other end is closed."""
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGPROF, _raise_cpu_spent)
    passed = all(
        compare(
            ComparisonRequest(reference, answer, AnswerType.EXPRESSION, Profile.EVAL)
        ).status.value
        == expected
        for reference, answer, expected in _SELF_TEST
    )
    wire.send(end, {"ready": passed, "cpu_s": time.process_time()})
    suspicious_bytes = _peak_bytes() + int(_GROWTH_SHARE * memory_bytes)
    while (request := wire.receive(end)) is not None:
        status, detail, path = _compare(request)
        if status in ("incorrect", "answer_unparseable") and _peak_bytes() > suspicious_bytes:
            status = "memory"
        wire.send(
            end,
            {
                "status": status,
                "detail": detail[:_MAX_DETAIL],
                "path": path,
                "cpu_s": time.process_time(),
            },
        )


def _compare(message: dict[str, Any]) -> tuple[str, str, str]:
    """Return the status, its detail and the method."""
    request = ComparisonRequest(
        message["reference_answer"],
        message["answer"],
        AnswerType(message["kind"]),
        Profile(message["profile"]),
    )
    try:
        with _cpu_budget(message):
            reply = compare(request)
    except MemoryError:
        return "memory", "", "none"
    except _CpuSpentError:
        return "cpu_time", "", "none"
    return reply.status.value, reply.detail, reply.path


@contextmanager
def _cpu_budget(request: dict[str, Any]) -> Iterator[None]:
    budget_s = _ENDLESS_SHARE * request["timeout_s"] if _ENDLESS.search(request["answer"]) else 0.0
    signal.setitimer(signal.ITIMER_PROF, budget_s, _REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _raise_cpu_spent(_signal: int, _frame: FrameType | None) -> None:
    raise _CpuSpentError


def _peak_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmPeak:"))
    return int(line.split()[1]) * 1024


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the zygote ends for any reason."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the zygote ended before its worker started")
