"""Retention leaves a checkpoint that is being read."""

import os
import time
from pathlib import Path

import pytest

from services.common.checkpoint.pins import list_pinned, pin, unpin
from services.common.checkpoint.store import delete_checkpoints, expired_checkpoints
from services.common.job_spec import CheckpointSpec
from tests.unit.common.test_checkpoint_store import write


def test_a_checkpoint_that_is_read_stays_until_its_pin_has_run_out(tmp_path: Path) -> None:
    first, *_ = [write(tmp_path, step) for step in (1, 2, 3)]
    pin(first, "export", 60)
    pin(first, "copy", 60)
    unpin(first, "copy")

    while_read = expired_checkpoints(tmp_path, CheckpointSpec(keep_last=1))
    delete_checkpoints(while_read)
    unpin(first, "export")
    pin(first, "chat", -1)
    afterwards = expired_checkpoints(tmp_path, CheckpointSpec(keep_last=1))

    assert [path.name for path in while_read] == ["step-000002"]
    assert [path.name for path in afterwards] == ["step-000001"]
    assert list((tmp_path / ".pins").iterdir()) == []


def test_the_longest_pin_counts(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    pin(path, "chat", 60)

    pin(path, "chat", -60)

    assert list_pinned(tmp_path) == {"step-000001"}


def test_the_clock_of_the_host_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, 1)
    pin(path, "export", 60)

    monkeypatch.setattr(time, "time", lambda: os.stat(path).st_mtime + 3600)

    assert list_pinned(tmp_path) == {"step-000001"}
