"""The rows of environments as files: made once per data set, by a process of its own."""

import hashlib
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from services.common.environments.names import parse_environment_name

_TIMEOUT_S: Final = 300.0
_MAX_SHOWN: Final = 2000


def make_environment_file(directory: Path, name: str) -> Path:
    """Return the file with the rows of a data set, made if it does not exist.

    Raises ValueError that says why the name cannot be used.
    """
    parsed = parse_environment_name(name)
    # A release of the package may make other tasks of the same parameters.
    key = f"{parsed} {_find_version(parsed.environment)}"
    path = directory / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.jsonl"
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "services.common.environments", name, str(path)]
    # Without the secrets of this process: packages of others run there.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DIRL_")}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{name!r} took longer than {_TIMEOUT_S:g} s; lower its size or difficulty"
        ) from None
    if done.returncode == 0:
        return path
    said = done.stderr.strip().splitlines()
    raise ValueError((said[-1] if said else f"exit status {done.returncode}")[:_MAX_SHOWN])


def _find_version(environment: str) -> str:
    try:
        return version(environment)
    except PackageNotFoundError:
        return ""
