"""Programs against their tests, hostile ones mixed in: how many a second and core, and what escapes.

Prints one JSON line for each isolation that this machine has. An escape is a file that a hostile
program wrote, or a connection that it made; a process that is left is one of a sandbox besides the
sandbox itself.
"""

import argparse
import json
import os
import random
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from services.common.grader_spec import parse_grader
from services.common.trajectory import Outcome
from services.reward.extraction import Extraction
from services.reward.graders import make_scorer
from services.reward.isolation import Isolation
from services.reward.sandbox import SandboxPool, open_pool, shared_sandboxes
from services.reward.scores import GradedResponse, GradingLimits, drop_explanation

_BATCH: Final = 64
_HOSTILE_SHARE: Final = 0.1
_CPU_S: Final = 0.25
HOSTILE: Final = (
    "open(MARK, 'w').write('escaped')",
    "import os\nos.open(MARK, os.O_CREAT | os.O_WRONLY)",
    "import os\nos.mkdir(MARK)",
    "import os\nif os.fork() == 0: os.setsid(); open(MARK, 'w')",
    "import os\nwhile True:\n    try: os.fork()\n    except OSError: break",
    "import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 600; touch ' + MARK])",
    "import ctypes\nctypes.CDLL(None).system(b'touch ' + MARK.encode())",
    "import ctypes\nlibc = ctypes.CDLL(None)\nfor _ in range(100): libc.fork(); libc.daemon(0, 0)",
    "import socket\nsocket.create_connection(('127.0.0.1', PORT))",
    "import ctypes\nctypes.CDLL(None).socket(2, 1, 0)",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "import os\nos.kill(-1, 9)",
    "import os\nfor n in range(1, 99):\n    try: print(open(f'/proc/{n}/environ').read())\n    except OSError: pass",
    "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "x = []\nwhile True: x.append(bytearray(1 << 22))",
    "import os\nwhile True: os.write(1, b'x' * 65536)",
    "files = []\nwhile True: files.append(open('/usr'))",
    "while True: pass",
    'import os\nos.write(3, b\'{"value": null, "token": ""}\')\nos._exit(0)',
    "import ctypes\nctypes.string_at(0)",
    "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
)
"""None solves anything; MARK and PORT are filled in."""
_PROBLEMS: Final[tuple[tuple[str, str, Mapping[str, Any]], ...]] = (
    (
        "n = int(input())\nprint(sum(i * i for i in range(n)))",
        "print(input())",
        {"tests": [{"input": "10", "output": "285"}]},
    ),
    (
        "from collections import Counter\nprint(Counter(input()).most_common(1)[0][0])",
        "print('x')",
        {"tests": [{"input": "banana", "output": "a"}]},
    ),
    (
        "def f(xs):\n    return sorted(set(xs))",
        "def f(xs):\n    return xs",
        {"test_list": ["assert f([3, 1, 3]) == [1, 3]"]},
    ),
    (
        "def add(a, b):\n    return a + b",
        "def add(a, b):\n    return a - b",
        {"prompt": "", "entry_point": "add", "test": "def check(c):\n    assert c(1, 2) == 3"},
    ),
)
"""(right program, wrong program, row)."""


def measure(count: int, pool: SandboxPool) -> dict[str, Any]:
    """Grade so many programs with the sandboxes of the pool; a tenth of them is hostile."""
    rng = random.Random(0)
    spec = parse_grader({"name": "code", "timeout_s": _CPU_S, "memory_mb": 128})
    scorer = make_scorer(spec)
    former, shared_sandboxes._pool = shared_sandboxes._pool, pool
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        server.setblocking(False)
        Path(directory).chmod(0o777)
        jobs = []
        for place in range(count):
            right, wrong, row = _PROBLEMS[place % len(_PROBLEMS)]
            if rng.random() < _HOSTILE_SHARE:
                mark, port = f"{directory}/{place}", server.getsockname()[1]
                hostile = HOSTILE[place % len(HOSTILE)]
                jobs.append((f"MARK, PORT = {mark!r}, {port}\n{hostile}", row, 0.0, True))
            else:
                is_right = rng.random() < 0.5
                jobs.append((right if is_right else wrong, row, float(is_right), False))
        wrong_verdicts, peaceful, hostile_s, peaceful_s = 0, 0, 0.0, 0.0
        # Apart, because a hostile program spends its limit: ten a second would be a good pace.
        for is_hostile in (False, True):
            own = [job for job in jobs if job[3] is is_hostile]
            started = time.monotonic()
            for first in range(0, len(own), _BATCH):
                batch = own[first : first + _BATCH]
                scores = scorer(
                    [_to_graded(source, row) for source, row, *_ in batch], GradingLimits()
                )
                wrong_verdicts += sum(
                    drop_explanation(score) != expected
                    for score, (_, _, expected, _) in zip(scores, batch, strict=True)
                )
            if is_hostile:
                hostile_s = time.monotonic() - started
            else:
                peaceful, peaceful_s = len(own), time.monotonic() - started
        escapes = len(os.listdir(directory)) + _count_connections(server)
    shared_sandboxes._pool = former
    return {
        "isolation": pool.isolation.mode,
        "programs": count,
        "hostile": count - peaceful,
        "programs_per_s_and_core": round(peaceful / max(peaceful_s, 1e-9) / pool.size, 1),
        "hostile_per_s_and_core": round((count - peaceful) / max(hostile_s, 1e-9) / pool.size, 1),
        "wrong_verdicts": wrong_verdicts,
        "escapes": escapes,
        "left_processes": _count_left(pool),
    }


def _to_graded(source: str, row: Mapping[str, Any]) -> GradedResponse:
    return GradedResponse(response=source, extraction=Extraction(), outcome=Outcome.SCORED, row=row)


def _count_connections(server: socket.socket) -> int:
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def _count_left(pool: SandboxPool) -> int:
    """Processes below the idle sandboxes that are not the sandboxes themselves."""
    time.sleep(0.2)
    left = 0
    for sandboxes in pool._idle.values():
        for sandbox in sandboxes:
            tree = psutil.Process(sandbox._process.pid).children(recursive=True)
            left += sum(
                not any("jail.py" in part for part in process.cmdline()) for process in tree
            )
    return left


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--sandboxes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    found = open_pool("auto", options.sandboxes)
    pools = {found.isolation.mode: found}
    pools.setdefault("process", SandboxPool(Isolation("process", "measured"), options.sandboxes))
    for pool in pools.values():
        print(json.dumps(measure(options.programs, pool)), flush=True)
        pool.close()


if __name__ == "__main__":
    main()
