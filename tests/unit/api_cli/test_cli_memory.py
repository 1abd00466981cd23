"""Memory of a process tree."""

import os
import subprocess
import sys
import time

import pytest

from services.api.cli.memory import PeakMemory, tree_bytes

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="proportional set sizes are Linux's"
)
MIB = 2**20


def test_the_peak_counts_a_child_that_has_ended_meanwhile() -> None:
    before = tree_bytes(os.getpid())
    program = f"import sys; block = b'x' * (64 * {MIB}); print('up', flush=True); sys.stdin.read()"
    with PeakMemory() as memory:
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            deadline = time.monotonic() + 30
            while memory.peak_bytes < before + 64 * MIB and time.monotonic() < deadline:
                time.sleep(0.05)

    assert memory.peak_bytes >= before + 64 * MIB
    assert tree_bytes(os.getpid()) < before + 64 * MIB
