"""The process in which untrusted Python runs, and from which one child is forked for every call.

It is run by path with `python -I -S` and an empty environment and imports no module of the platform;
services.reward.isolation starts it, services.reward.sandbox speaks to it. Descriptor 0 is its control
socket. Each frame is a length of four bytes and JSON. It answers a call, which is two frames (the job
and the test), with one frame, and ends when the socket is closed.

A child limits itself before it runs anything: address space, CPU time, file size, descriptors, and a
seccomp filter under which it cannot start processes, open sockets, send signals, trace or write files.
It loads its source first and is sent the test afterwards, so that code which runs while it is loaded
cannot see the test.
"""

import atexit
import bisect
import cmath  # noqa: F401 - imported for programs and graders, which may be unable to open files
import collections
import contextlib
import copy  # noqa: F401
import ctypes
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import decimal  # noqa: F401
import difflib  # noqa: F401
import enum  # noqa: F401
import errno
import fractions  # noqa: F401
import functools
import gc
import hashlib  # noqa: F401
import heapq
import importlib
import inspect  # noqa: F401
import io
import itertools
import json
import math
import mmap
import numbers  # noqa: F401
import operator
import os
import platform
import pprint  # noqa: F401
import queue  # noqa: F401
import random
import re
import resource
import select
import signal
import socket
import statistics  # noqa: F401
import string
import struct
import sys
import textwrap  # noqa: F401
import threading
import time
import traceback  # noqa: F401
import types
import typing
import unicodedata  # noqa: F401

_MAX_DETAIL = 300
_MAX_RESULT_BYTES = 1 << 20
_MAX_OUTPUT_BYTES = 16 << 20
_NUM_FILES = 32
_CHANNEL = 3
"""Descriptor of a child's channel: `_LOADED`, then the test in the other direction, then the result."""
_LOADED = b"L"
_TEST_S = 1.0
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 4, 38, 22
_SECCOMP_MODE_FILTER = 2
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_GREATER, _JUMP_IF_ANY_BIT, _RETURN = (
    0x20,
    0x15,
    0x25,
    0x45,
    0x06,
)
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_CLONE_THREAD, _WRITES = 0x00010000, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# The numbers of each architecture, after the AUDIT_ARCH constant of the kernel.
_ARCHITECTURES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12,
        "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "readv": 19, "writev": 20,
        "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "exit": 60,
        "gettimeofday": 96, "getrusage": 98, "times": 100, "sigaltstack": 131, "gettid": 186, "futex": 202,
        "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
        "set_robust_list": 273, "getrandom": 318, "rseq": 334, "clone": 56, "clone3": 435,
        "stat": 4, "lstat": 6, "access": 21, "fcntl": 72, "getcwd": 79, "readlink": 89, "getdents64": 217,
        "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "statx": 332, "faccessat2": 439}),
    "aarch64": (0xC00000B7, {
        "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "mmap": 222, "mprotect": 226, "munmap": 215,
        "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "pread64": 67, "readv": 65,
        "writev": 66, "sched_yield": 124, "mremap": 216, "madvise": 233, "nanosleep": 101, "getpid": 172, "exit": 93,
        "gettimeofday": 169, "getrusage": 165, "times": 153, "sigaltstack": 132, "gettid": 178, "futex": 98,
        "restart_syscall": 128, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94,
        "set_robust_list": 99, "getrandom": 278, "rseq": 293, "clone": 220, "clone3": 435,
        "fcntl": 25, "getcwd": 17, "getdents64": 61, "openat": 56, "newfstatat": 79, "readlinkat": 78,
        "faccessat": 48, "statx": 291, "faccessat2": 439}),
}  # fmt: skip
_FILE_CALLS = {
    "stat", "lstat", "access", "fcntl", "getcwd", "readlink", "getdents64", "openat", "newfstatat", "readlinkat",
    "faccessat", "statx", "faccessat2",
}  # fmt: skip
_CONDITIONS = {
    # call: argument, test, operand, whether the test must hold
    "clone": (0, _JUMP_IF_ANY_BIT, _CLONE_THREAD, True),
    "openat": (2, _JUMP_IF_ANY_BIT, _WRITES, False),
    # Up to F_GETFL: F_SETOWN and F_SETSIG would send signals.
    "fcntl": (1, _JUMP_IF_GREATER, 3, False),
}
# Names that solutions in the style of LeetCode use without importing them.
_PRELUDE: dict[str, typing.Any] = {
    **{name: getattr(typing, name) for name in ("Any", "Callable", "Dict", "Iterable", "Iterator", "List", "Optional",
                                                "Set", "Tuple", "Union")},
    **{name: getattr(collections, name) for name in ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple")},
    **{name: getattr(functools, name) for name in ("cache", "cmp_to_key", "lru_cache", "reduce")},
    **{name: getattr(itertools, name) for name in ("accumulate", "chain", "combinations", "count", "cycle", "groupby",
                                                   "pairwise", "permutations", "product", "repeat")},
    **{name: getattr(heapq, name) for name in ("heapify", "heappop", "heappush", "heappushpop", "heapreplace",
                                               "nlargest", "nsmallest")},
    **{name: getattr(bisect, name) for name in ("bisect_left", "bisect_right", "insort")},
    **{name: getattr(math, name) for name in ("ceil", "comb", "floor", "gcd", "inf", "isqrt", "lcm", "sqrt")},
    "bisect": bisect, "collections": collections, "functools": functools, "heapq": heapq, "itertools": itertools,
    "math": math, "operator": operator, "random": random, "re": re, "string": string, "sys": sys,
}  # fmt: skip

Json = dict[str, typing.Any]


class Limiter:
    """The limits that a child puts on itself; made before the fork, because it costs time."""

    def __init__(self, *, reads_files: bool) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        program = make_filter(reads_files=reads_files)
        self._code = ctypes.create_string_buffer(program, len(program))
        self._header = ctypes.create_string_buffer(
            struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(self._code))
        )
        self._num_files = _NUM_FILES if reads_files else _CHANNEL + 1
        self._base_bytes = _address_space()

    def apply(self, memory_bytes: int, cpu_s: float, parent: int) -> None:
        """Limit this process for good; raises OSError where the kernel cannot."""
        # Lowered hard limits cannot be raised again without privileges.
        _set_limit(resource.RLIMIT_AS, self._base_bytes + memory_bytes)
        _set_limit(resource.RLIMIT_CPU, math.ceil(cpu_s) + 1)
        _set_limit(resource.RLIMIT_CORE, 0)
        _set_limit(resource.RLIMIT_FSIZE, _MAX_OUTPUT_BYTES)
        _set_limit(resource.RLIMIT_NOFILE, self._num_files)
        # The kernel kills this process when its parent dies; the check covers a death before the call.
        self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise OSError("the sandbox ended before its child started")
        self._prctl(_PR_SET_DUMPABLE, 0)
        # Required by the kernel before an unprivileged process may install a filter.
        self._prctl(_PR_SET_NO_NEW_PRIVS, 1)
        self._prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(self._header))

    def _prctl(self, option: int, first: int, second: int = 0) -> None:
        zero = ctypes.c_ulong(0)
        if self._libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), zero, zero) != 0:
            raise OSError(
                ctypes.get_errno(), f"prctl({option}) failed; the sandbox needs Linux with seccomp"
            )


def main() -> None:
    """Load what was asked for, report readiness, then answer calls until the control socket is closed."""
    control = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup = _receive(control)
    if setup is None:
        return
    try:
        sys.path += setup["path"]
        loaded = {name: importlib.import_module(name) for name in setup["modules"]}
        for module, function, argument in setup["preparation"]:
            getattr(loaded[module], function)(argument)
        limiter = Limiter(reads_files=setup["reads_files"])
    except Exception as error:  # noqa: BLE001 - a module of a package may raise anything
        _send(control, {"failure": _describe(error)})
        return
    # Objects outside the collector are never written by it, so their pages stay shared with the children.
    gc.collect()
    gc.freeze()
    _send(control, {"ready": True})
    while (job := _receive(control)) is not None:
        reply = _call(control, job, limiter, loaded)
        if reply is None:
            return
        _send(control, reply)


def _call(
    control: socket.socket, job: Json, limiter: Limiter, loaded: dict[str, types.ModuleType]
) -> Json | None:
    """Run one job in a child; None if the control socket was closed meanwhile."""
    ours, theirs = socket.socketpair()
    stdin, stdout = os.memfd_create("stdin"), os.memfd_create("stdout")
    try:
        with os.fdopen(os.dup(stdin), "wb") as file:
            file.write(job.pop("stdin", "").encode(errors="replace"))
        os.lseek(stdin, 0, os.SEEK_SET)
        parent, started = os.getpid(), time.monotonic()
        child = os.fork()
        if child == 0:
            _run_child(job, (stdin, stdout, theirs.fileno()), limiter, parent, loaded)
        theirs.close()
        pidfd = os.pidfd_open(child)
        watch = _Watch(control, ours, pidfd, child, started)
        try:
            ended = watch.wait(job["cpu_s"], job["wall_s"])
        finally:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            os.close(pidfd)
        if ended == "hung_up" or not watch.take_test():
            return None
        return {
            "ended": ended,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "loaded": watch.loaded,
            "result": watch.result.decode(errors="replace"),
            "stdout": os.pread(stdout, _MAX_OUTPUT_BYTES, 0).decode(errors="replace"),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "wall_s": time.monotonic() - started,
        }
    finally:
        os.close(stdin)
        os.close(stdout)
        ours.close()
        theirs.close()


class _Watch:
    """What the parent of a child sees of it."""

    def __init__(
        self, control: socket.socket, channel: socket.socket, pidfd: int, child: int, started: float
    ) -> None:
        self._control, self._channel, self._pidfd, self._started = control, channel, pidfd, started
        # The clock of another process: see clock_getcpuclockid(3).
        self._cpu_clock = (~child << 3) | 2
        self._has_test = False
        self.loaded = False
        self.result = b""

    def wait(self, cpu_s: float, wall_s: float) -> str:
        """Wait until the child ends or exceeds a limit.

        Return `exited`, `cpu`, `wall`, `result` (too long), or `hung_up` for a closed control socket.
        """
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        poll.register(self._control, select.POLLRDHUP)
        while True:
            left_s = self._started + wall_s - time.monotonic()
            if left_s <= 0:
                return "wall"
            left_cpu_s = cpu_s - self._read_cpu()
            if left_cpu_s <= 0:
                return "cpu"
            events = dict(poll.poll(1000 * min(left_s, left_cpu_s) + 1))
            if events.get(self._control.fileno(), 0) & (select.POLLRDHUP | select.POLLHUP):
                return "hung_up"
            if self._channel.fileno() in events and not self._receive():
                poll.unregister(self._channel)
            if len(self.result) > _MAX_RESULT_BYTES:
                return "result"
            if self._pidfd in events:
                while len(self.result) <= _MAX_RESULT_BYTES and self._receive():
                    pass
                return "exited"

    def take_test(self) -> bool:
        """Take the test from the control socket, unless the child was sent it; False at its end."""
        return self._has_test or self._read_test() is not None

    def _read_cpu(self) -> float:
        try:
            return time.clock_gettime(self._cpu_clock)
        except OSError:  # it has just ended
            return 0.0

    def _receive(self) -> bool:
        """Receive a part of what the child sent; answer `_LOADED` with the test. False if there is none."""
        try:
            part = self._channel.recv(65_536, socket.MSG_DONTWAIT)
        except OSError:
            return False
        if not self.loaded and part.startswith(_LOADED):
            self.loaded, part = True, part[len(_LOADED) :]
            self._send_test()
            self.result += part
            return True
        self.result += part
        return bool(part)

    def _send_test(self) -> None:
        test = self._read_test()
        # A child that does not read its test runs into a limit of its own, not of this process.
        self._channel.settimeout(_TEST_S)
        if test is not None:
            with contextlib.suppress(OSError):
                self._channel.sendall(struct.pack(">I", len(test)) + test)

    def _read_test(self) -> bytes | None:
        self._has_test = True
        return _receive_bytes(self._control)


class _Channel:
    """A child's end of its channel. It uses read and write, which the filter allows, and no socket call."""

    def __init__(self) -> None:
        self._token = ""

    def take_test(self) -> Json:
        """Say that the source is loaded, and return the test."""
        os.write(_CHANNEL, _LOADED)
        (length,) = struct.unpack(">I", self._read(4))
        test: Json = json.loads(self._read(length))
        self._token = test["token"]
        return test

    def send(self, result: Json) -> None:
        """Send the result with the token of the test, which makes it the harness's and not the code's own."""
        data = json.dumps({**result, "token": self._token}).encode()
        while data:
            data = data[os.write(_CHANNEL, data) :]

    @staticmethod
    def _read(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = os.read(_CHANNEL, count - len(data))
            if not part:
                raise EOFError("the sandbox ended")
            data += part
        return data


def _run_child(
    job: Json,
    descriptors: tuple[int, int, int],
    limiter: Limiter,
    parent: int,
    loaded: dict[str, types.ModuleType],
) -> typing.NoReturn:
    """Run one job and exit; the child must not return into the code of its parent."""
    try:
        for source, target in zip(descriptors, (0, 1, _CHANNEL), strict=True):
            os.dup2(source, target)
        os.closerange(_CHANNEL + 1, _NUM_FILES)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8", "replace")
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w")), "utf-8", "replace")
            for number in (1, 2)
        )
        limiter.apply(job["memory_bytes"], job["cpu_s"], parent)
        channel = _Channel()
        try:
            result = _KINDS[job["kind"]](job, channel, loaded)
        except BaseException as error:  # noqa: BLE001 - untrusted code may raise anything
            result = {"failure": _describe(error)}
        channel.send(result)
    except BaseException:  # noqa: BLE001 - a child without a result has failed
        os._exit(1)
    os._exit(0)


def _run_program(job: Json, channel: _Channel, _loaded: dict[str, types.ModuleType]) -> Json:
    """Run a program as a script, with its standard input and output."""
    code = compile(job["source"], "program", "exec")
    channel.take_test()
    with contextlib.suppress(SystemExit):  # how a script ends early
        exec(code, {"__name__": "__main__", **_PRELUDE})
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return {"value": None}


def _call_function(job: Json, channel: _Channel, _loaded: dict[str, types.ModuleType]) -> Json:
    """Call a function of a program, or a method of its class Solution, and return the value."""
    space = _load_source(job["source"], "program")
    test = channel.take_test()
    name = test["function"]
    function = getattr(space["Solution"](), name) if "Solution" in space else space[name]
    return {"value": function(*test["arguments"])}


def _evaluate(job: Json, channel: _Channel, _loaded: dict[str, types.ModuleType]) -> Json:
    """Evaluate an expression after a program, and return its value as `to_comparable` has it."""
    space = _load_source(job["source"], "program")
    code = compile(channel.take_test()["code"], "test", "eval")
    return {"value": to_comparable(eval(code, space))}


def to_comparable(value: typing.Any) -> typing.Any:
    """Return JSON that is equal for values that are equal in Python, and different for others.

    Raises TypeError for a value that is not a number, text, None or a container of these.
    """
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else repr(float(value))
    if value is None or isinstance(value, str):
        return ["text", value]
    if isinstance(value, list | tuple):
        return [
            "list" if isinstance(value, list) else "tuple",
            [to_comparable(item) for item in value],
        ]
    if isinstance(value, set | frozenset):
        return ["set", sorted((to_comparable(item) for item in value), key=json.dumps)]
    if isinstance(value, dict):
        pairs = [[to_comparable(key), to_comparable(item)] for key, item in value.items()]
        return ["dict", sorted(pairs, key=json.dumps)]
    raise TypeError(f"{type(value).__name__} cannot be compared")


def _run_assertions(job: Json, channel: _Channel, _loaded: dict[str, types.ModuleType]) -> Json:
    """Run code that raises unless the program is right."""
    space = _load_source(job["source"], "program")
    exec(compile(channel.take_test()["code"], "test", "exec"), space)
    return {"value": None}


def _grade(job: Json, channel: _Channel, _loaded: dict[str, types.ModuleType]) -> Json:
    """Call `grade(sample, item)` of a grader; its value must be a finite number."""
    grade: typing.Callable[..., object] = _load_source(job["source"], "grader")["grade"]
    test = channel.take_test()
    score = grade(test["sample"], test["item"])
    if isinstance(score, int | float) and math.isfinite(score):
        return {"value": float(score)}
    return {"failure": f"grade returned {score!r:.80}; it must return a finite number"}


def _call_module(job: Json, channel: _Channel, loaded: dict[str, types.ModuleType]) -> Json:
    """Call a function of a module that the sandbox was started with."""
    function: typing.Callable[..., object] = operator.attrgetter(job["function"])(
        loaded[job["module"]]
    )
    return {"value": function(*channel.take_test()["arguments"])}


_KINDS: dict[str, typing.Callable[[Json, _Channel, dict[str, types.ModuleType]], Json]] = {
    "program": _run_program, "function": _call_function, "expression": _evaluate, "assertions": _run_assertions,
    "grade": _grade, "module": _call_module,
}  # fmt: skip


def _load_source(source: str, name: str) -> Json:
    space: Json = {"__name__": name, **_PRELUDE}
    exec(compile(source, name, "exec"), space)
    return space


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_DETAIL]


def _send(control: socket.socket, message: Json) -> None:
    data = json.dumps(message).encode()
    control.sendall(struct.pack(">I", len(data)) + data)


def _receive(control: socket.socket) -> Json | None:
    data = _receive_bytes(control)
    message: Json | None = None if data is None else json.loads(data)
    return message


def _receive_bytes(control: socket.socket) -> bytes | None:
    """Receive one frame and nothing after it; None at the end of the connection."""
    header = _receive_exactly(control, 4)
    return header and _receive_exactly(control, *struct.unpack(">I", header))


def _receive_exactly(control: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        part = control.recv(min(count - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def _set_limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    """Bytes of address space that this process uses, found without /proc, which the sandbox has not."""
    low, high = 0, 1 << 40
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    while high - low > mmap.PAGESIZE:
        middle = (low + high) // 2
        resource.setrlimit(resource.RLIMIT_AS, (middle, hard))
        try:
            mmap.mmap(-1, mmap.PAGESIZE).close()
            high = middle
        except (OSError, MemoryError):
            low = middle
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return high


def make_filter(*, reads_files: bool) -> bytes:
    """Return a BPF program that allows the listed system calls; all others fail with EPERM.

    It checks the architecture first, because system call numbers differ between architectures.
    Jumps are relative, and every part ends in a return or falls through to the next one.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(
            f"the sandbox supports {', '.join(_ARCHITECTURES)}; this machine is {machine}"
        )
    architecture, numbers_by_name = _ARCHITECTURES[machine]
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)
    steps = [
        (_LOAD_WORD, 0, 0, 4),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        refuse,
        (_LOAD_WORD, 0, 0, 0),
    ]
    for name, number in numbers_by_name.items():
        if name in _FILE_CALLS and not reads_files:
            continue
        if name == "clone3":
            # Its arguments are in memory, out of a filter's sight; the C library then uses clone.
            steps += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _UNKNOWN)]
        elif name in _CONDITIONS:
            argument, test, operand, holds = _CONDITIONS[name]
            low_word = 16 + 8 * argument
            steps += [
                (_JUMP_IF_EQUAL, 0, 4, number),
                (_LOAD_WORD, 0, 0, low_word),
                (test, *((0, 1) if holds else (1, 0)), operand),
                allow,
                refuse,
            ]
        else:
            steps += [(_JUMP_IF_EQUAL, 0, 1, number), allow]
    return b"".join(struct.pack("HBBI", *step) for step in [*steps, refuse])


if __name__ == "__main__":
    main()
