"""The process in which a `python` grader runs: imports, limits itself for good, then calls `grade`
when asked.

Run by its path with `python -I -S`, an empty environment and an empty directory; it imports nothing
of ours. After `_enter_jail` the kernel refuses every system call that is not on the list: no file
can be opened, no socket made, no process started, no signal sent. One JSON object per line comes in
and goes out; the parent keeps the time.
"""

import bisect  # noqa: F401 - this and the next ones are here for the grader, which can load no other
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
# restart_syscall clock_gettime clock_nanosleep exit_group getrandom, as each architecture numbers
# them; with its name for the kernel.
_ARCHITECTURES = {
    "x86_64": (0xC000003E, (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 24, 25, 28, 35, 39, 60, 96, 98, 131, 202,
                            219, 228, 230, 231, 318)),
    "aarch64": (0xC00000B7, (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 67, 124, 216, 233, 101, 172, 93,
                             169, 165, 132, 98, 128, 113, 115, 94, 278)),
}  # fmt: skip


def main() -> None:
    """Announce, then answer until standard input ends."""
    asked, said = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    config = json.loads(asked.readline())
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
    try:
        _enter_jail(config["memory_bytes"], config["cpu_s"], config["parent"])
        grade = _load(config["source"])
    except BaseException as error:  # noqa: BLE001 - whatever the code does, the parent is told
        _say(said, {"failure": _described(error)})
        return
    _say(said, {"ready": True})
    for line in asked:
        _say(said, _answer(grade, json.loads(line)))
        sys.stdout = io.StringIO()  # what was printed is not kept


def _load(source: str) -> typing.Callable[..., object]:
    space: dict[str, typing.Any] = {"__name__": "grader"}
    exec(compile(source, "grader", "exec"), space)
    grade: typing.Callable[..., object] = space["grade"]
    return grade


def _answer(
    grade: typing.Callable[..., object], question: dict[str, typing.Any]
) -> dict[str, typing.Any]:
    try:
        score = grade(question["sample"], question["item"])
        if isinstance(score, int | float) and math.isfinite(score):
            return {"score": float(score)}
        return {"failure": f"grade returned {score!r:.80}; it must return a finite number"}
    except BaseException as error:  # noqa: BLE001
        return {"failure": _described(error)}


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_DETAIL]


def _say(said: typing.BinaryIO, message: dict[str, typing.Any]) -> None:
    said.write(json.dumps(message).encode() + b"\n")
    said.flush()


def _enter_jail(memory_bytes: int, cpu_s: int, parent: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    libc = ctypes.CDLL(None, use_errno=True)
    program = _filter()
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    )
    _prctl(libc, _PR_SET_PDEATHSIG, _SIGKILL, 0)
    if os.getppid() != parent:
        raise OSError("the service ended before its grader began")
    _prctl(libc, _PR_SET_DUMPABLE, 0, 0)
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
            ctypes.get_errno(), f"prctl({option}) was refused; the sandbox needs Linux with seccomp"
        )


def _filter() -> bytes:
    """A BPF program over (system call, architecture): the listed calls pass, all others fail with
    EPERM.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(f"the sandbox knows {', '.join(_ARCHITECTURES)}; this machine is {machine}")
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
