"""The zygote: imports the comparator once, warms it up, and forks workers in milliseconds.

It is a separate process with one thread, because forking the serving process would copy the locks
of gRPC. It serves one socket, whose descriptor is the first argument, and ends with its workers
when that socket is closed.
"""

import gc
import os
import signal
import socket
import sys
import traceback
from typing import Any, Final

from services.common.answers.answer_types import AnswerType
from services.reward import wire, worker
from services.reward.comparator import compare
from services.reward.comparison_request import ComparisonRequest
from services.reward.extraction import Profile
from services.reward.symbolic import is_equivalent

_WARM_UP: Final = (
    (r"\frac{1}{2}", "0.5"), (r"3\sqrt{13}", r"\sqrt{117}"), ("x^2+2x+1", "(x+1)^2"), (r"(1,\frac{9}{2})", "(1,4.5)"),
    ("x=5", "5"), ("[0,1)", "[0,2)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}"),
    (r"\frac{\pi r}{h+r}", r"\frac{r\pi}{r+h}"), (r"x \in \{1,2\}", "1,2"), (r"2\cos(x)", r"\cos(x)"),
)  # fmt: skip


def main() -> None:
    """Warm up, report readiness, then fork and kill workers on request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    memory_bytes = int(sys.argv[2])
    for reference, answer in _WARM_UP:
        is_equivalent(reference, answer)
        compare(ComparisonRequest(reference, answer, AnswerType.EXPRESSION, Profile.RL))
    # Objects outside the collector are never written by it, so their pages stay shared with the workers.
    gc.collect()
    gc.freeze()
    wire.send(control, {"ready": True})
    children: set[int] = set()
    try:
        while (request := wire.receive(control)) is not None:
            if request["op"] == "fork":
                _fork(control, memory_bytes, children)
                continue
            child = int(request["pid"])
            # Only a child is killed: the kernel may have given the pid of a reaped one to others.
            known = child in children
            children.discard(child)
            wire.send(control, _kill(child) if known else {"cpu_s": 0.0, "signal": 0})
    finally:
        for child in children:
            _kill(child)


def _fork(control: socket.socket, memory_bytes: int, children: set[int]) -> None:
    ours, theirs = wire.packet_pair()
    zygote = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        wire.send(control, {"error": f"fork failed: {error.strerror}"})
        return
    if child == 0:
        control.close()
        ours.close()
        _run_worker(theirs, memory_bytes, zygote)
    children.add(child)
    wire.send_with_socket(control, {"pid": child}, ours)
    ours.close()
    theirs.close()


def _run_worker(end: socket.socket, memory_bytes: int, zygote: int) -> None:
    """Run the worker and exit; the child must not return into the code of the zygote."""
    status = 1
    try:
        worker.run(end, memory_bytes, zygote)
        status = 0
    except (OSError, MemoryError):
        traceback.print_exc()
    finally:
        os._exit(status)


def _kill(child: int) -> dict[str, Any]:
    """Kill and reap a worker; return its total CPU seconds and the signal that ended it."""
    os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
    }


if __name__ == "__main__":
    main()
