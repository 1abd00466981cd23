"""Run other programs, such as modules of other services, and forward their output."""

import subprocess
from collections.abc import Sequence

from services.api.cli.failure import CommandError
from services.api.embedded.modules import module_command, module_environment


def run_module(module: str, *arguments: str, stdin: str = "") -> str:
    """Run `python -m module …` with a text as its standard input; see `run_program`."""
    return _run(module_command(module, *arguments), subprocess.PIPE, stdin)


def run_program(command: Sequence[str]) -> str:
    """Run a program and return its standard output.

    Raises CommandError with its standard error if it fails.
    """
    return _run(command, subprocess.PIPE)


def show_module(module: str, *arguments: str) -> None:
    """Run `python -m module …`, which writes to standard output; raises like `run_program`."""
    _run(module_command(module, *arguments), None)


def _run(command: Sequence[str], output: int | None, stdin: str = "") -> str:
    done = subprocess.run(
        command,
        env=module_environment(),
        input=stdin,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        error = done.stderr.strip()
        if "Traceback (most recent call last)" in error:
            error = error.splitlines()[-1].strip()  # users need the message, not our stack
        raise CommandError(error or f"{' '.join(command)} ended with exit code {done.returncode}.")
    return done.stdout or ""
