"""Running other programs, among them the modules of other services, and answering with what they
say.
"""

import subprocess
from collections.abc import Sequence

from services.api.cli.failure import CommandError
from services.api.embedded.modules import module_command, module_environment


def run_module(module: str, *arguments: str) -> str:
    """Run `python -m module …`; see `run_program`."""
    return run_program(module_command(module, *arguments))


def run_program(command: Sequence[str]) -> str:
    """Run a program; returns what it wrote on standard output.

    Raises CommandError with what it wrote on standard error when it fails.
    """
    return _run(command, subprocess.PIPE)


def show_module(module: str, *arguments: str) -> None:
    """Run `python -m module …` with our standard output, on which it may draw; fails as
    `run_program` does.
    """
    _run(module_command(module, *arguments), None)


def _run(command: Sequence[str], output: int | None) -> str:
    done = subprocess.run(
        command,
        env=module_environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandError(
            _reason(done.stderr) or f"{' '.join(command)} ended with exit code {done.returncode}."
        )
    return done.stdout or ""


def _reason(errors: str) -> str:
    """What a program wrote before it failed; of a traceback only its last line, which says what
    happened.
    """
    text = errors.strip()
    return text.splitlines()[-1].strip() if "Traceback (most recent call last)" in text else text
