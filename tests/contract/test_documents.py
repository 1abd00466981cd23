"""What the documents say can be done: files exist, specs are valid, commands and targets are there."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from services.api.cli.main import app
from services.common.job_spec import parse_spec

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
FILE = re.compile(
    r"\b(?:services|tests|scripts|benchmarks|proto|examples|k8s|monitoring)/[\w./-]+\.\w+\b"
)
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_command(app)


def blocks(language: str) -> list[str]:
    return [
        text
        for path in DOCUMENTS
        for _, found, text in BLOCK.findall(path.read_text())
        if found == language
    ]


def command_lines(program: str) -> Iterator[list[str]]:
    for text in blocks(""):
        for line in text.replace("\\\n", " ").splitlines():
            # A comment ends the line; "#" inside of quotes is part of a word.
            words = shlex.split(line, comments=True) if line.count("'") % 2 == 0 else []
            if words and words[0] == program:
                yield words[1:]


def test_every_file_that_a_document_names_exists() -> None:
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in DOCUMENTS
        for name in FILE.findall(path.read_text())
        if not (ROOT / name).exists()
    }

    assert len(DOCUMENTS) > 30
    assert missing == set()


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_spec_in_a_document_is_valid(text: str) -> None:
    part: dict[str, Any] = tomllib.loads(text)
    files = {} if "training_mixture" in part else {"training_file": "train"}

    parse_spec({"model": "m", "method": "rl", "validation_file": "test", **files, **part})


def test_every_dirl_command_in_a_document_exists_with_its_options() -> None:
    lines = list(command_lines("dirl"))

    for words in lines:
        command: Any = COMMANDS
        while words and words[0][0] not in "[-" and getattr(command, "commands", None):
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known, words
    assert len(lines) > 20


def test_every_make_target_in_a_document_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {words[0] for words in command_lines("make") if words}

    assert len(named) > 5
    assert named <= targets
