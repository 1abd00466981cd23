"""Writing checkpoint directories: all of it or nothing."""

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.checkpoint.format import (
    CheckpointHeader,
    list_checkpoints,
    newest_valid,
    verify,
)
from services.common.checkpoint.store import (
    delete_checkpoints,
    expired_checkpoints,
    remove_leftovers,
    write_checkpoint,
)
from services.common.errors import PlatformError
from services.common.job_spec import CheckpointSpec

WRITE_WITH_A_FILE_SIZE_LIMIT = """
import resource, sys
from pathlib import Path
from services.common.checkpoint.store import write_checkpoint
from services.common.errors import PlatformError
from tests.unit.common.test_checkpoint_store import header
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
def payload(directory):
    (directory / "state.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(bytes(10_000))
try:
    write_checkpoint(Path(sys.argv[1]), header(2), payload)
except PlatformError as error:
    print(error.code)
"""


def header(step: int) -> CheckpointHeader:
    return CheckpointHeader(
        job_id="job_1",
        attempt=1,
        stage="rl",
        global_step=step,
        weight_version=step,
        weight_digest="digest",
        parent=None,
        model={},
        diffusion={},
        created_at=1.0,
    )


def write(directory: Path, step: int, content: str = "weights") -> Path:
    return write_checkpoint(directory, header(step), lambda path: _fill(path, content))[0]


def _fill(directory: Path, content: str) -> None:
    (directory / "model.safetensors").write_text(content)


def everything_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EIO, "checkpoint_failed")],
)
def test_a_failing_write_leaves_the_earlier_checkpoint_and_nothing_else(
    tmp_path: Path, number: int, code: str
) -> None:
    write(tmp_path, 1)

    def payload(directory: Path) -> None:
        _fill(directory, "half")
        raise OSError(number, "no")

    with pytest.raises(PlatformError) as caught:
        write_checkpoint(tmp_path, header(2), payload)

    assert caught.value.code == code
    assert everything_in(tmp_path) == ["step-000001"]


def test_a_real_limit_of_the_system_leaves_nothing_half_written(tmp_path: Path) -> None:
    write(tmp_path, 1)
    root = Path(__file__).resolve().parents[3]
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert soft == resource.RLIM_INFINITY or soft > 10_000

    command = [sys.executable, "-c", WRITE_WITH_A_FILE_SIZE_LIMIT, str(tmp_path)]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "checkpoint_failed"
    assert everything_in(tmp_path) == ["step-000001"]


def test_an_error_that_is_not_the_systems_removes_the_partial_directory_too(tmp_path: Path) -> None:
    def payload(directory: Path) -> None:
        _fill(directory, "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, header(1), payload)

    assert everything_in(tmp_path) == []


def test_a_checkpoint_is_invisible_while_it_is_written(tmp_path: Path) -> None:
    seen: list[object] = []

    def payload(directory: Path) -> None:
        _fill(directory, "weights")
        seen.extend([list_checkpoints(tmp_path), newest_valid(tmp_path)])

    write_checkpoint(tmp_path, header(1), payload)

    assert seen == [[], None]


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".partial-step-000007").mkdir()
    (tmp_path / ".partial-step-000007" / "model.safetensors").write_text("half")
    (tmp_path / ".replaced-step-000003").mkdir()

    write(tmp_path, 8)

    assert everything_in(tmp_path) == ["step-000008"]


def test_leftovers_never_include_a_finished_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1)

    remove_leftovers(tmp_path)

    assert everything_in(tmp_path) == ["step-000001"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    damaged = write(tmp_path, 5, "old")
    (damaged / "model.safetensors").write_text("damaged")

    path = write(tmp_path, 5, "new")

    verify(path)
    assert (path / "model.safetensors").read_text() == "new"
    assert everything_in(tmp_path) == ["step-000005"]


def test_retention_keeps_the_newest_and_the_multiples(tmp_path: Path) -> None:
    for step in range(1, 13):
        write(tmp_path, step)

    expired = expired_checkpoints(tmp_path, CheckpointSpec(keep_last=2, keep_every=5))
    delete_checkpoints(expired)

    assert everything_in(tmp_path) == ["step-000005", "step-000010", "step-000011", "step-000012"]
    assert [path.name for path in expired] == [
        f"step-{step:06d}" for step in (1, 2, 3, 4, 6, 7, 8, 9)
    ]


def test_retention_deletes_nothing_while_there_are_few(tmp_path: Path) -> None:
    write(tmp_path, 1)

    assert expired_checkpoints(tmp_path, CheckpointSpec(keep_last=3)) == []
    assert everything_in(tmp_path) == ["step-000001"]
