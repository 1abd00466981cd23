"""The command that lets a model answer."""

import json
from pathlib import Path

import pytest

from services.common.model.tiny import make_tiny_model
from services.rollout.generate import main


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory: Path = tmp_path_factory.mktemp("model")
    make_tiny_model(directory, seed=0, hidden_size=16, layers=1, heads=2)
    return str(directory)


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_the_answer_is_written_as_text(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = _run(capsys, "--model", model_dir, "--max-new-tokens", "6", "2+2?")

    report = json.loads(
        _run(capsys, "--model", model_dir, "--max-new-tokens", "6", "--json", "2+2?")
    )
    assert text == report["text"] + "\n"
    assert report["num_forwards"] >= report["num_steps"] == max(report["unmask_step"])


def test_seed_and_temperature_decide_the_answer(
    model_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*options: str) -> list[int]:
        report = _run(
            capsys, "--model", model_dir, "--max-new-tokens", "16", "--json", *options, "2+2?"
        )
        ids: list[int] = json.loads(report)["token_ids"]
        return ids

    assert answer("--temperature", "1", "--seed", "1") == answer(
        "--temperature", "1", "--seed", "1"
    )
    assert answer("--temperature", "1", "--seed", "1") != answer(
        "--temperature", "1", "--seed", "2"
    )


def test_a_terminal_shows_masked_positions_as_they_are_filled(
    model_dir: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    shown = _run(
        capsys, "--model", model_dir, "--max-new-tokens", "6", "--threshold", "0.99", "2+2?"
    )

    assert "░" in shown
    assert "step 3" in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "/nonexistent/model", "2+2?"], "is not a directory"),
        (["--threshold", "2", "2+2?"], "Invalid decoding parameters"),
    ],
)
def test_a_failure_is_told_on_standard_error(
    arguments: list[str], reason: str, model_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = arguments if "--model" in arguments else ["--model", model_dir, *arguments]

    assert main(options) == 1
    assert reason in capsys.readouterr().err
