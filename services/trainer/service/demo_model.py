"""The demo's model, made by a separate process: the supervisor never loads torch."""

import subprocess
import sys
from pathlib import Path

from services.common.errors import PlatformError


def make_demo_model(path: Path, seed: int, timeout_s: float) -> None:
    """Write a tiny model with random weights to `path`; an existing one is kept.

    Raises PlatformError: "internal" with the reason when it cannot be made, "deadline_exceeded"
    after `timeout_s`.
    """
    if path.exists():
        return
    command = [
        sys.executable,
        "-m",
        "services.common.model",
        "make",
        "--out",
        str(path),
        "--seed",
        str(seed),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PlatformError(
            "deadline_exceeded", f"{path} was not made within {timeout_s:.0f} s."
        ) from error
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[
            2
        ]  # of a traceback the line that says what happened
        raise PlatformError("internal", f"Cannot make a model at {path}: {reason}")
