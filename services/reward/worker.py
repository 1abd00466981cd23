"""A worker process: compares one pair at a time, under a memory limit, until it is killed or its socket closes.

It never stops itself at a deadline: C code cannot be interrupted, so the serving process has it killed instead.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from typing import Any, Final

from services.reward import wire
from services.reward.symbolic import AnswerUnreadableError, GoldUnreadableError, equivalent, readable

_PR_SET_PDEATHSIG: Final = 1
_GROWTH_SHARE: Final = 0.2
"""A refused answer that made the address space grow by this share of the limit failed for memory: the library swallows
MemoryError. (One single allocation beyond the limit leaves no trace and reads as incorrect; the guard refuses such
answers beforehand, and both score the same.) Ordinary comparisons need a tenth of it."""
_MAX_DETAIL: Final = 200
_SELF_TEST: Final = ((r"\frac{1}{2}", "0.5", True), ("x+1", "1+x", True), ("2", "3", False))


def run(end: socket.socket, memory_bytes: int, parent: int) -> None:
    """Limit this process, test the comparator, announce, and answer until the other side is gone."""
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    works = all(equivalent(gold, answer) is expected for gold, answer, expected in _SELF_TEST)
    wire.send(end, {"ready": works, "cpu_s": time.process_time()})
    suspicious_bytes = _peak_bytes() + int(_GROWTH_SHARE * memory_bytes)
    while (request := wire.receive(end)) is not None:
        status, detail = _compare(request)
        if status in ("incorrect", "answer_unparseable") and _peak_bytes() > suspicious_bytes:
            status = "memory"
        wire.send(end, {"status": status, "detail": detail[:_MAX_DETAIL], "cpu_s": time.process_time()})


def _compare(request: dict[str, Any]) -> tuple[str, str]:
    try:
        if not equivalent(request["gold"], request["answer"]):
            return "incorrect", ""
        return ("correct" if readable(request["gold"]) else "string_only"), ""
    except GoldUnreadableError as error:
        return "gold_invalid", str(error)
    except AnswerUnreadableError as error:
        return "answer_unparseable", str(error)
    except MemoryError:
        return "memory", ""


def _peak_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmPeak:"))
    return int(line.split()[1]) * 1024


def _die_with(parent: int) -> None:
    """Be killed when the zygote ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the zygote ended before its worker began")
