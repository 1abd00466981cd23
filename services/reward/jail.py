"""The process in which a `python` grader runs: it enters its sandbox, then calls `grade` on request.

It is run by path with `python -I -S`, an empty environment and an empty directory, and imports no
module of the platform. After `_enter_jail` the kernel rejects every system call that is not on the
list: it cannot open files or sockets, start processes or send signals. It reads and writes one JSON
object per line; the parent enforces the timeout.
"""

import bisect  # noqa: F401 - imported for the grader, which cannot import anything itself
import cmath  # noqa: F401
import collections  # noqa: F401
import ctypes
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import decimal  # noqa: F401
import difflib  # noqa: F401
import errno
import fractions  # noqa: F401
import functools  # noqa: F401
import heapq  # noqa: F401
import io
import itertools  # noqa: F401
import json
import math
import operator  # noqa: F401
import os
import platform
import random  # noqa: F401
import re  # noqa: F401
import resource
import statistics  # noqa: F401
import string  # noqa: F401
import struct
import sys
import typing
import unicodedata  # noqa: F401

_MAX_DETAIL = 300
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_DUMPABLE = 38, 22, 2, 4
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
# pread64 sched_yield mremap madvise nanosleep getpid exit gettimeofday getrusage sigaltstack futex
# restart_syscall clock_gettime clock_nanosleep exit_group getrandom, with the numbers of each
# architecture, after the AUDIT_ARCH constant of the kernel.
_ARCHITECTURES = {
    "x86_64": (0xC000003E, (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 24, 25, 28, 35, 39, 60, 96, 98, 131, 202,
                            219, 228, 230, 231, 318)),
    "aarch64": (0xC00000B7, (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 67, 124, 216, 233, 101, 172, 93,
                             169, 165, 132, 98, 128, 113, 115, 94, 278)),
}  # fmt: skip


def main() -> None:
    """Report readiness, then answer requests until standard input is closed."""
    requests, replies = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    config = json.loads(requests.readline())
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
    try:
        _enter_jail(config["memory_bytes"], config["cpu_s"], config["parent"])
        space: dict[str, typing.Any] = {"__name__": "grader"}
        exec(compile(config["source"], "grader", "exec"), space)
        grade: typing.Callable[..., object] = space["grade"]
    except BaseException as error:  # noqa: BLE001 - user code may raise anything, and the parent must learn of it
        _write(replies, {"failure": _describe(error)})
        return
    _write(replies, {"ready": True})
    for line in requests:
        _write(replies, _grade(grade, json.loads(line)))
        sys.stdout = io.StringIO()  # discard what the grader printed


def _grade(
    grade: typing.Callable[..., object], request: dict[str, typing.Any]
) -> dict[str, typing.Any]:
    try:
        score = grade(request["sample"], request["item"])
        if isinstance(score, int | float) and math.isfinite(score):
            return {"score": float(score)}
        return {"failure": f"grade returned {score!r:.80}; it must return a finite number"}
    except BaseException as error:  # noqa: BLE001 - the parent reports the failure of user code
        return {"failure": _describe(error)}


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_DETAIL]


def _write(replies: typing.BinaryIO, message: dict[str, typing.Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


def _enter_jail(memory_bytes: int, cpu_s: int, parent: int) -> None:
    # Lowered hard limits cannot be raised again without privileges.
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    libc = ctypes.CDLL(None, use_errno=True)
    program = _make_filter()
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    )
    # The kernel kills this process when the service dies; the check covers a death before the call.
    _prctl(libc, _PR_SET_PDEATHSIG, _SIGKILL, 0)
    if os.getppid() != parent:
        raise OSError("the service ended before its grader started")
    _prctl(libc, _PR_SET_DUMPABLE, 0, 0)
    # Required by the kernel before an unprivileged process may install a filter.
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1, 0)
    _prctl(libc, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header))


def _prctl(libc: ctypes.CDLL, option: int, first: int, second: int) -> None:
    if (
        libc.prctl(
            option,
            ctypes.c_ulong(first),
            ctypes.c_ulong(second),
            ctypes.c_ulong(0),
            ctypes.c_ulong(0),
        )
        != 0
    ):
        raise OSError(
            ctypes.get_errno(), f"prctl({option}) failed; the sandbox needs Linux with seccomp"
        )


def _make_filter() -> bytes:
    """Return a BPF program that allows the listed system calls; all others fail with EPERM.

    It checks the architecture first, because system call numbers differ between architectures.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(
            f"the sandbox supports {', '.join(_ARCHITECTURES)}; this machine is {machine}"
        )
    architecture, calls = _ARCHITECTURES[machine]
    steps = [
        (_LOAD_WORD, 0, 0, 4),
        (_JUMP_IF_EQUAL, 0, len(calls) + 1, architecture),
        (_LOAD_WORD, 0, 0, 0),
        *((_JUMP_IF_EQUAL, len(calls) - place, 0, call) for place, call in enumerate(calls)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


if __name__ == "__main__":
    main()
