"""Where a local platform keeps its state, and the file that tells other programs where it runs."""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PLATFORM_FILE: Final = "platform.json"
LOCK_FILE: Final = "platform.lock"
"""Locked while a platform runs on the directory; holds its process id."""
_SYSTEM_DATA_DIR: Final = Path("/var/lib/dirl")


@dataclass(frozen=True)
class RunningPlatform:
    """What platform.json says."""

    pid: int
    api_url: str


def default_data_dir() -> Path:
    """DIRL_DATA_DIR; else ~/.local/share/dirl (XDG_DATA_HOME), and /var/lib/dirl for root.

    Root's home is closed to the account that has to run PostgreSQL for root.
    """
    named = os.environ.get("DIRL_DATA_DIR")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return _SYSTEM_DATA_DIR
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "dirl"


def running_platform(data_dir: Path) -> RunningPlatform | None:
    """The platform that runs on a data directory; None when there is none, a killed one's file
    included.
    """
    try:
        if not _is_locked(data_dir / LOCK_FILE):
            return None
        content = json.loads((data_dir / PLATFORM_FILE).read_text())
    except FileNotFoundError:
        return None
    return RunningPlatform(int(content["pid"]), str(content["api_url"]))


def _is_locked(path: Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
