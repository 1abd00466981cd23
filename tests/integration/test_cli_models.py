"""Models by the command line: made, asked, converted, without a platform."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]


def _dirl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "services.api.cli", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    done = _dirl(
        "models", "make", "--out", str(directory), "--hidden-size", "32", "--layers", "1", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"path": str(directory)}
    return directory


def test_a_model_that_was_made_answers(model: Path) -> None:
    done = _dirl("generate", "1+1?", "--model", str(model), "--max-new-tokens", "8", "--json")

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["token_ids"]) >= 8
    assert isinstance(answer["text"], str)


def test_an_existing_directory_is_never_written_to(model: Path) -> None:
    before = (model / "config.json").read_bytes()

    done = _dirl("models", "make", "--out", str(model))

    assert done.returncode == 1
    assert "it already exists" in done.stderr
    assert (model / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "command", [("generate", "1+1?", "--model"), ("models", "convert", "--out", "out", "--source")]
)
def test_a_directory_that_is_no_model_is_refused_without_a_traceback(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()

    done = _dirl(
        *(part if part != "out" else str(tmp_path / "out") for part in command),
        str(tmp_path / "empty"),
    )

    assert done.returncode == 1
    assert done.stderr.startswith("dirl: ")
    assert "Traceback" not in done.stderr


def test_a_conversion_whose_result_cannot_train_or_decode_is_removed(
    model: Path, tmp_path: Path
) -> None:
    """A model with a norm that is not a number loads, but decodes and learns nothing."""
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(model, source)
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"][:] = torch.nan
    save_file(weights, source / "model.safetensors", {"format": "pt"})

    broken = _dirl("models", "convert", "--source", str(source), "--out", str(out))
    assert broken.returncode == 1
    assert "The converted model does not work" in broken.stderr
    assert not out.exists()

    works = _dirl("models", "convert", "--source", str(model), "--out", str(out))
    assert works.returncode == 0
    assert (out / "model.safetensors").is_file()
