"""The isolations of untrusted code that this machine has."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.reward.isolation import Isolation
from services.reward.sandbox import SandboxPool, open_pool, shared_sandboxes

MODES = ("bubblewrap", "process")


def isolation(mode: str) -> Isolation:
    """The isolation; skips the test where this machine has none such."""
    found = open_pool("auto" if mode == "bubblewrap" else "process", 1)
    found.close()
    if found.isolation.mode != mode:
        pytest.skip(f"no {mode} here: {found.isolation.reason}")
    return found.isolation


@contextmanager
def shared(mode: str, size: int = 2) -> Iterator[SandboxPool]:
    """Have every grader of this process use sandboxes of this mode."""
    pool, former = SandboxPool(isolation(mode), size), shared_sandboxes._pool
    shared_sandboxes._pool = pool
    try:
        yield pool
    finally:
        shared_sandboxes._pool = former
        pool.close()
