"""The learner as a process: it stops when asked, and never outlives the supervisor that started it."""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Final

import structlog

_PR_SET_PDEATHSIG: Final = 1
_WATCH_S: Final = 1.0

log = structlog.get_logger()


class StopRequestedError(Exception):
    """The attempt was asked to end; raised only between optimizer steps."""


class StopSignal:
    """Whether the attempt was asked to end (SIGTERM)."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def listen(self) -> None:
        """Treat SIGTERM and SIGINT as the request."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.request())

    def request(self) -> None:
        """Request the end of the attempt."""
        self._requested.set()

    def check(self) -> None:
        """Raise StopRequestedError once the end was requested."""
        if self._requested.is_set():
            raise StopRequestedError

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the request."""
        self._requested.wait(seconds)


def die_with_parent(supervisor_pid: int) -> None:
    """End this process at once when its supervisor dies: two learners must never write one job.

    The kernel does it on Linux; elsewhere, and for a supervisor that died before the call, a
    thread polls.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    # The signal covers the future; a supervisor that died before prctl is noticed by the parent's id.
    _leave_orphaned(supervisor_pid)
    threading.Thread(
        target=_watch, args=(supervisor_pid,), name="supervisor-watch", daemon=True
    ).start()


def _watch(supervisor_pid: int) -> None:
    while True:
        time.sleep(_WATCH_S)
        _leave_orphaned(supervisor_pid)


def _leave_orphaned(supervisor_pid: int) -> None:
    if os.getppid() != supervisor_pid:
        log.error("learner ended: its supervisor has ended", supervisor_pid=supervisor_pid)
        os._exit(1)
