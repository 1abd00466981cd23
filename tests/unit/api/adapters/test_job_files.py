"""Checkpoints that are archived, and directories of forks."""

from pathlib import Path

import pytest

from services.api.adapters.job_files import (
    adopt_checkpoint,
    archive_checkpoints,
    archived_path,
    finish_archiving,
    is_archived,
    is_archiving,
    is_unstarted_fork,
)


def make_checkpoint(job_dir: Path, step: int) -> Path:
    path = job_dir / "checkpoints" / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text(str(step))
    (job_dir / "journal").mkdir(exist_ok=True)
    return path


def test_a_checkpoint_is_archiving_between_its_new_path_and_its_rename(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 4)
    archived = archived_path(path, attempt=3)

    before = (is_archived(path), is_archiving(path), is_archived(archived), is_archiving(archived))
    finish_archiving(path)
    finish_archiving(archived)
    finish_archiving(archived)

    assert before == (False, False, True, True)
    assert archived.name == "archived-0003-step-000004"
    assert (archived.is_dir(), path.exists(), is_archiving(archived)) == (True, False, False)


def test_only_checkpoints_beyond_the_step_are_archived(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        make_checkpoint(tmp_path, step)

    archive_checkpoints(tmp_path, 4, attempt=1)
    archive_checkpoints(tmp_path, 4, attempt=1)

    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["archived-0001-step-000006", "step-000002", "step-000004"]


@pytest.mark.parametrize("rewound", [False, True])
def test_a_fork_holds_its_checkpoint_under_the_name_that_readers_accept(
    tmp_path: Path, rewound: bool
) -> None:
    path = make_checkpoint(tmp_path / "parent", 4)
    if rewound:
        path = path.rename(archived_path(path, attempt=1))

    adopt_checkpoint(path, tmp_path / "parent", tmp_path / "child")

    copy = tmp_path / "child" / "origin" / "checkpoints" / "step-000004" / "model.safetensors"
    assert copy.read_text() == "4"
    assert is_unstarted_fork(tmp_path / "child")
    (tmp_path / "child" / "logs").mkdir()
    assert not is_unstarted_fork(tmp_path / "child")
