"""Reading checkpoint directories: what is accepted, and what is passed over."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.common.checkpoint.format import (
    MANIFEST,
    CheckpointHeader,
    list_checkpoints,
    newest_valid,
    read_manifest,
    verify,
)
from services.common.checkpoint.store import write_checkpoint
from services.common.errors import PlatformError


def header(step: int, **changes: object) -> CheckpointHeader:
    fields = {
        "job_id": "job_1",
        "attempt": 1,
        "stage": "sft",
        "global_step": step,
        "weight_version": step,
        "weight_digest": f"digest-{step}",
        "parent": None,
        "model": {"block_size": 4},
        "diffusion": {"selection": "max"},
        "created_at": 1.0,
    }
    return CheckpointHeader.model_validate({**fields, **changes})


def payload(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"weights" * 100)
    (directory / "state.json").write_text("{}")
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "vocab.txt").write_text("a\nb\n")


def written(directory: Path, *steps: int) -> list[Path]:
    return [write_checkpoint(directory, header(step), payload)[0] for step in steps]


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(checkpoint: Path) -> None:
    file = checkpoint / "tokenizer" / "vocab.txt"
    file.write_text("a\nc\n")


def delete_a_file(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()


def delete_the_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()


def cut_the_manifest(checkpoint: Path) -> None:
    file = checkpoint / MANIFEST
    file.write_text(file.read_text()[:100])


def alter_the_weight_version(checkpoint: Path) -> None:
    file = checkpoint / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "weight_version": 99}))


def alter_the_format_version(checkpoint: Path) -> None:
    file = checkpoint / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 2}))


DAMAGES = [
    truncate,
    flip_a_bit,
    delete_a_file,
    delete_the_manifest,
    cut_the_manifest,
    alter_the_weight_version,
    alter_the_format_version,
]


def test_a_checkpoint_that_was_written_verifies(tmp_path: Path) -> None:
    path, manifest = write_checkpoint(tmp_path, header(42), payload)

    assert path.name == "step-000042"
    assert verify(path) == manifest == read_manifest(path)
    assert sorted(manifest.files) == ["model.safetensors", "state.json", "tokenizer/vocab.txt"]
    assert manifest.total_bytes == 700 + 2 + 4


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_kind_of_damage_makes_a_checkpoint_invalid(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    (path,) = written(tmp_path, 1)

    damage(path)

    with pytest.raises(PlatformError) as caught:
        verify(path)
    assert caught.value.code == "checkpoint_invalid"


def test_the_message_names_the_file_and_both_digests(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1)
    stated = read_manifest(path).files["model.safetensors"].sha256

    truncate(path)

    with pytest.raises(
        PlatformError, match=rf"model\.safetensors has sha256 [0-9a-f]{{64}} .* states {stated}"
    ):
        verify(path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_valid_checkpoint_is_taken_when_a_newer_one_is_damaged(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    _, older, newer = written(tmp_path, 1, 2, 3)

    damage(newer)

    found = newest_valid(tmp_path)
    assert found is not None
    assert found[0] == older


def test_the_newest_is_the_greatest_step_not_the_latest_file(tmp_path: Path) -> None:
    written(tmp_path, 20, 3)

    found = newest_valid(tmp_path)

    assert found is not None
    assert found[1].global_step == 20


def test_steps_of_more_than_six_digits_sort_by_number(tmp_path: Path) -> None:
    written(tmp_path, 1_000_000, 999_999)

    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-999999", "step-1000000"]


def test_a_renamed_checkpoint_is_invalid(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1)

    with pytest.raises(PlatformError, match="step-000001"):
        verify(path.rename(tmp_path / "step-000002"))


def test_a_directory_without_checkpoints_has_no_newest_one(tmp_path: Path) -> None:
    (tmp_path / "step-000001").mkdir()

    assert newest_valid(tmp_path) is None
    assert newest_valid(tmp_path / "missing") is None


def test_reading_checkpoints_imports_no_torch() -> None:
    program = "import sys, services.common.checkpoint.store; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
