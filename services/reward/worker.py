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

from services.common.linear_patterns import LinearPattern
from services.reward import wire
from services.reward.symbolic import (
    AnswerUnreadableError,
    ReferenceUnreadableError,
    is_equivalent,
    is_readable,
)

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
_SELF_TEST: Final = ((r"\frac{1}{2}", "0.5", True), ("x+1", "1+x", True), ("2", "3", False))


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
        is_equivalent(reference, answer) is expected for reference, answer, expected in _SELF_TEST
    )
    wire.send(end, {"ready": passed, "cpu_s": time.process_time()})
    suspicious_bytes = _peak_bytes() + int(_GROWTH_SHARE * memory_bytes)
    while (request := wire.receive(end)) is not None:
        status, detail = _compare(request)
        if status in ("incorrect", "answer_unparseable") and _peak_bytes() > suspicious_bytes:
            status = "memory"
        wire.send(
            end, {"status": status, "detail": detail[:_MAX_DETAIL], "cpu_s": time.process_time()}
        )


def _compare(request: dict[str, Any]) -> tuple[str, str]:
    try:
        with _cpu_budget(request):
            equal = is_equivalent(request["reference_answer"], request["answer"])
        if not equal:
            return "incorrect", ""
        return ("correct" if is_readable(request["reference_answer"]) else "string_only"), ""
    except ReferenceUnreadableError as error:
        return "reference_answer_invalid", str(error)
    except AnswerUnreadableError as error:
        return "answer_unparseable", str(error)
    except MemoryError:
        return "memory", ""
    except _CpuSpentError:
        return "cpu_time", ""


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
