"""Memory of a process tree."""

import subprocess
import sys
import threading

import pytest

from services.api.cli.memory import PeakMemory, tree_bytes

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="proportional set sizes are Linux's"
)
BLOCK_BYTES = 64 * 2**20
CHILD = f"import sys; block = b'x' * {BLOCK_BYTES}; print('up', flush=True); sys.stdin.read()"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("child up", flush=True)
sys.stdin.readline()
child.communicate()
print("child ended", flush=True)
sys.stdin.read()
"""


class CountedSamples:
    """Sizes of a process tree, and how many were taken."""

    def __init__(self, pid: int) -> None:
        self._pid, self._count, self._changed = pid, 0, threading.Condition()

    def measure(self) -> int:
        size = tree_bytes(self._pid)
        with self._changed:
            self._count += 1
            self._changed.notify_all()
        return size

    def wait_for_next(self) -> None:
        """Wait for a sample that began after this call: the second to end from now on."""
        with self._changed:
            wanted = self._count + 2
            self._changed.wait_for(lambda: self._count >= wanted)


def test_the_peak_counts_a_child_that_has_ended_meanwhile() -> None:
    # A process of its own, far smaller than the block: the size of the tests' process depends on
    # what else runs. Samples are counted, no time is waited for.
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        samples = CountedSamples(parent.pid)
        parent.stdout.readline()
        with PeakMemory(samples.measure, interval_s=0.01) as memory:
            samples.wait_for_next()
            parent.stdin.write(b"\n")
            parent.stdin.flush()
            parent.stdout.readline()
            samples.wait_for_next()

        assert memory.peak_bytes >= BLOCK_BYTES
        assert tree_bytes(parent.pid) < BLOCK_BYTES
        parent.stdin.close()
