"""Untrusted Python: what it may compute, and that no escape from its process succeeds, in each mode."""

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.reward.isolation import Isolation
from services.reward.sandbox import (
    Call,
    Reply,
    Sandbox,
    SandboxError,
    SandboxPool,
    Setup,
    open_pool,
)
from services.reward.scores import GradingLimits
from tests.support.sandboxes import MODES, isolation, shared

IGNORES_CPU_LIMIT = "import signal\nsignal.signal(24, signal.SIG_IGN)\nwhile True: pass"


@pytest.fixture(scope="module", params=MODES)
def pool(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    with shared(request.param) as pool:
        yield pool


def run(
    pool: SandboxPool, source: str, *, stdin: str = "", cpu_s: float = 2.0, wall_s: float = 5.0
) -> Reply:
    call = Call(
        kind="program",
        job={"source": textwrap.dedent(source), "stdin": stdin},
        cpu_s=cpu_s,
        wall_s=wall_s,
        memory_bytes=128 << 20,
    )
    with pool.lease(Setup(), GradingLimits()) as sandbox:
        return sandbox.call(call)


def syscall(number_x86: int, number_arm: int, *arguments: str) -> str:
    """A program that makes a system call without Python's knowledge and prints its errno."""
    number = number_x86 if os.uname().machine == "x86_64" else number_arm
    made = ", ".join(f"ctypes.c_long({item})" for item in (number, *arguments))
    return f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.syscall({made}), ctypes.get_errno())"


def test_a_program_computes_with_its_input(pool: SandboxPool) -> None:
    reply = run(
        pool,
        "import math, heapq, sys\nprint(math.gcd(*map(int, sys.stdin.read().split())))",
        stdin="12 18",
    )
    assert (reply.failure, reply.stdout) == ("", "6\n")


def test_threads_and_deep_recursion_work_because_programs_of_contests_use_them(
    pool: SandboxPool,
) -> None:
    reply = run(
        pool,
        """
        import sys, threading
        sys.setrecursionlimit(10**6)
        def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
        thread = threading.Thread(target=lambda: print(depth(20_000)))
        thread.start()
        """,
    )
    assert reply.stdout == "20000\n", reply


def test_secrets_of_the_machine_cannot_be_read(pool: SandboxPool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    for parent in (secret, *secret.parents):
        parent.chmod(0o755)
    paths = (
        str(secret),
        "/etc/passwd",
        "/etc/shadow",
        __file__,
        "/proc/self/environ",
        "/proc/1/environ",
        "/sys/kernel",
    )
    for path in paths:
        reply = run(
            pool,
            f"import os\nprint(os.listdir({path!r}) if {path!r}[:4] == '/sys' else open({path!r}).read())",
        )
        assert reply.stdout == "", path
        assert reply.failure.startswith(("FileNotFoundError", "PermissionError")), (
            path,
            reply.failure,
        )


def test_the_environment_of_every_process_is_out_of_reach(
    pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRL_DATABASE_URL", "postgresql://user:secret@host")
    fresh = Sandbox(pool.isolation, Setup())  # started in this environment
    try:
        source = """
        import os
        texts = [str(dict(os.environ))]
        for process in ("self", *map(str, range(1, 5000))):
            for name in ("environ", "cmdline", "mem", "maps"):
                try: texts.append(open(f"/proc/{process}/{name}").read(100))
                except OSError: pass
        print("secret" in "".join(texts), len(texts))
        """
        reply = fresh.call(
            Call(
                kind="program",
                job={"source": textwrap.dedent(source)},
                cpu_s=2,
                wall_s=5,
                memory_bytes=128 << 20,
            )
        )
    finally:
        fresh.close()
    assert reply.stdout == "False 1\n", reply


@pytest.mark.parametrize(
    "source",
    [
        "import os; os.fork()",
        "import os; os.forkpty()",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(-1, 9)",
        "import os, signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
        "import signal; signal.raise_signal(9)",
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socketpair()",
        "import os; os.memfd_create('x')",
        "import os; os.pipe()",
        "import os; os.mkdir('x')",
        "import os; os.unlink('/jail.py')",
        "import os; os.chmod('/', 0o777)",
        "import os; os.symlink('/', 'x')",
        "import os; os.chroot('/')",
        "import os; os.setsid()",
        "import os; os.nice(-5)",
        "import os; os.sched_setaffinity(0, {0})",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import resource; resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))",
        "open('x', 'w').write('x')",
        "open('/dev/shm/x', 'wb').write(b'x')",
        "open('/tmp/x', 'ab').write(b'x')",
        "open('/usr/x', 'x')",
        "open('/dev/null', 'w')",
    ],
)
def test_no_call_leaves_the_process(pool: SandboxPool, source: str) -> None:
    reply = run(pool, source)
    refused = (
        *("PermissionError", "FileNotFoundError", "ModuleNotFoundError", "OSError: [Errno 1]"),
        *("OSError: [Errno 30]", "BlockingIOError", "AttributeError", "NameError", "ImportError"),
        "ValueError: not allowed to raise",
    )
    assert reply.failure.startswith(refused), reply


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("socket", syscall(41, 198, "2", "1", "0")),
        ("ptrace", syscall(101, 117, "16", "1", "0", "0")),
        ("process_vm_writev", syscall(311, 271, "1", "0", "0", "0", "0", "0")),
        ("kill", syscall(62, 129, "1", "9")),
        ("tgkill", syscall(234, 131, "1", "1", "9")),
        ("clone", syscall(56, 220, "17", "0", "0", "0", "0")),
        ("unshare", syscall(272, 97, "0x10000000")),
        ("mount", syscall(165, 40, "0", "0", "0", "0", "0")),
        ("setns", syscall(308, 268, "0", "0")),
        ("bpf", syscall(321, 280, "0", "0", "0")),
        ("io_uring_setup", syscall(425, 425, "1", "0")),
        ("perf_event_open", syscall(298, 241, "0", "0", "0", "0", "0")),
        ("keyctl", syscall(250, 219, "0", "0", "0", "0", "0")),
        ("userfaultfd", syscall(323, 282, "0")),
        ("prctl(PR_SET_DUMPABLE)", syscall(157, 167, "4", "1", "0", "0", "0")),
        ("setuid", syscall(105, 146, "0")),
        ("fcntl(F_SETOWN)", syscall(72, 25, "0", "8", "1")),
        ("openat(O_RDWR)", syscall(257, 56, "-100", "id(b'x')", "2", "0")),
    ],
)  # fmt: skip
def test_the_kernel_refuses_system_calls_made_through_ctypes(
    pool: SandboxPool, name: str, source: str
) -> None:
    assert run(pool, source).stdout == f"-1 {errno.EPERM}\n", name


def test_32_bit_and_x32_system_calls_do_not_get_around_the_filter(pool: SandboxPool) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x86-64 only")
    assert run(pool, syscall(0x40000000 + 57, 0)).stdout == f"-1 {errno.EPERM}\n"


def test_a_fork_bomb_and_a_daemon_start_no_process(pool: SandboxPool) -> None:
    before = set(psutil.pids())
    source = """
    import ctypes, os
    libc = ctypes.CDLL(None)
    for _ in range(1000):
        try:
            if os.fork() == 0:
                os.setsid()
                while True: pass
        except PermissionError:
            pass
        libc.fork(); libc.vfork(); libc.daemon(0, 0); libc.system(b"sleep 98765 &")
    print("here")
    """
    assert run(pool, source).stdout == "here\n"
    assert not [psutil.Process(pid) for pid in set(psutil.pids()) - before if _burns_or_sleeps(pid)]


def _burns_or_sleeps(pid: int) -> bool:
    try:
        return (
            "98765" in " ".join(psutil.Process(pid).cmdline())
            or psutil.Process(pid).uids().real == 65534
        )
    except psutil.NoSuchProcess:
        return False


def test_a_bomb_of_threads_ends_with_its_process(pool: SandboxPool) -> None:
    source = """
    import threading, time
    count = 0
    try:
        while True:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            count += 1
    except (RuntimeError, MemoryError):
        print("refused", count < 1000)
    """
    assert run(pool, source).stdout == "refused True\n"
    assert run(pool, "print(1)").stdout == "1\n"


@pytest.mark.parametrize(
    "source",
    [
        "x = 'x' * 10**10",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(100)]",
    ],
)
def test_memory_is_limited(pool: SandboxPool, source: str) -> None:
    reply = run(pool, source)
    assert reply.failure.startswith(("MemoryError", "OSError: [Errno 12]")), reply
    assert run(pool, "print(1)").stdout == "1\n"


def test_output_fills_no_disk_and_no_memory(pool: SandboxPool) -> None:
    reply = run(pool, "import os\nwhile True: os.write(1, b'x' * (1 << 20))", cpu_s=5)
    assert reply.failure.startswith("OSError: [Errno 27]"), reply
    assert len(reply.stdout) == 16 << 20


def test_descriptors_are_limited(pool: SandboxPool) -> None:
    source = """
    import sys
    files = []
    try:
        while True: files.append(open(sys.executable, "rb"))
    except OSError:
        print(len(files) < 100)
    """
    assert run(pool, source).stdout == "True\n"
    assert run(pool, "print(1)").stdout == "1\n"


@pytest.mark.parametrize(
    ("source", "failure"),
    [
        ("while True: pass", "it took longer than its time limit (CPU time)"),
        ("import time; time.sleep(60)", "it took longer than its time limit"),
        (IGNORES_CPU_LIMIT, "it took longer than its time limit (CPU time)"),
        ("import os; os._exit(0)", "the process ended without a result"),
        ("import ctypes; ctypes.string_at(0)", "the process ended by SIGSEGV"),
    ],
)  # fmt: skip
def test_what_does_not_end_by_itself_is_ended(pool: SandboxPool, source: str, failure: str) -> None:
    started = time.monotonic()
    reply = run(pool, source, cpu_s=0.3, wall_s=1.5)
    assert reply.failure == failure
    assert time.monotonic() - started < 8
    assert run(pool, "print(1)").stdout == "1\n"


@pytest.mark.parametrize(
    "written",
    [
        b'{"value": 1}',
        b'{"value": NaN, "token": ""}',
        b'{"value": 1, "token": "00000000000000000000000000000000"}',
        b'{"value": 1}\n{"value": 1}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"null",
    ],
)
def test_a_result_that_the_code_writes_itself_is_not_believed(
    pool: SandboxPool, written: bytes
) -> None:
    for ending in ("os._exit(0)", "pass"):
        reply = run(pool, f"import os\nos.write(3, {written!r})\n{ending}")
        assert (reply.failure, reply.value) == ("it wrote to its result channel", None)


def test_a_result_without_end_is_cut_off(pool: SandboxPool) -> None:
    assert (
        run(pool, "import os\nwhile True: os.write(3, b'x' * 65536)").failure
        == "its result is too long"
    )


def test_code_does_not_see_the_test_while_it_is_loaded(pool: SandboxPool) -> None:
    source = """
    import gc, sys
    def texts():
        return [item for item in gc.get_objects() if isinstance(item, dict) and "needle" in map(str, item.values())]
    def frames():
        frame, found = sys._getframe(), []
        while frame: found.append(frame.f_locals); frame = frame.f_back
        return found
    SEEN = bool(texts()) or "needle" in str(frames()).replace('"needle" in', "")
    def found(text): return SEEN
    """
    call = Call(
        kind="function",
        job={"source": textwrap.dedent(source)},
        test={"function": "found", "arguments": ["needle"]},
        cpu_s=2,
        wall_s=5,
        memory_bytes=128 << 20,
    )
    with pool.lease(Setup(), GradingLimits()) as sandbox:
        assert sandbox.call(call).value is False


def test_no_call_sees_what_another_one_left(pool: SandboxPool) -> None:
    run(pool, "import builtins, math\nbuiltins.print = None\nmath.left = 1")
    assert run(pool, "import math\nprint(hasattr(math, 'left'))").stdout == "False\n"


def test_a_sandbox_ends_when_the_service_is_killed(pool: SandboxPool) -> None:
    source = f"""
    import os, signal
    from services.reward.isolation import Isolation
    from services.reward.sandbox import Call, Sandbox, Setup
    sandbox = Sandbox(Isolation({pool.isolation.mode!r}, ""), Setup())
    print(sandbox._process.pid, flush=True)
    sandbox.call(Call(kind="program", job={{"source": "while True: pass"}}, cpu_s=99, wall_s=99, memory_bytes=1 << 27))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        started = psutil.Process(int(service.stdout.readline()))
        time.sleep(0.5)
        tree = [started, *started.children(recursive=True)]
        assert len(tree) >= 2
        service.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(tree, timeout=5)
    assert left == []


def test_a_lost_sandbox_is_replaced_and_its_processes_end(pool: SandboxPool) -> None:
    call = Call(kind="program", job={"source": ""}, cpu_s=1, wall_s=1, memory_bytes=1 << 27)
    with pool.lease(Setup(), GradingLimits()) as sandbox:
        started = psutil.Process(sandbox._process.pid)
        tree = [started, *started.children(recursive=True)]
        sandbox.interrupt()
        with pytest.raises(SandboxError, match="ended"):
            sandbox.call(call)
    _, left = psutil.wait_procs(tree, timeout=5)
    assert left == []
    assert run(pool, "print(1)").stdout == "1\n"


def test_without_bubblewrap_the_process_mode_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    isolation("process")
    monkeypatch.setenv("PATH", "/nonexistent")
    pool = open_pool("auto", 1)
    assert pool.isolation == Isolation("process", "bwrap is not installed")
    with pytest.raises(
        Exception, match="Cannot isolate untrusted code with bubblewrap: bwrap is not installed"
    ):
        open_pool("bubblewrap", 1)


def test_the_network_of_bubblewrap_is_empty_even_without_the_filter() -> None:
    """Defence in depth: the namespaces hold where the filter would not."""
    command = isolation("bubblewrap").command(())
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"""
import os, socket
print(socket.if_nameindex(), os.listdir("/"), os.path.exists("/proc/1"))
attempts = (
    lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 1),
    lambda: open("/x", "w"),
    lambda: os.kill({os.getpid()}, 0),
)
for attempt in attempts:
    try: print("possible", attempt())
    except OSError as error: print(error)
"""
        done = subprocess.run(
            [*command[:-1], "-c", program], capture_output=True, text=True, check=False
        )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done
    assert lines[0].startswith("[(1, 'lo')] ")
    assert "Network is unreachable" in lines[1] or "refused" in lines[1]
    assert "Read-only file system" in lines[2]
    assert "No such process" in lines[3]
