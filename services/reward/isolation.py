"""How untrusted code is kept apart from the machine: bubblewrap where it works, else the limits of the jail alone."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

_JAIL: Final = Path(__file__).with_name("jail.py")
_SCRATCH_BYTES: Final = 64 << 20
_SYSTEM_DIRECTORIES: Final = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache")


@dataclass(frozen=True)
class Isolation:
    """The isolation of every sandbox of this process."""

    mode: Literal["bubblewrap", "process"]
    reason: str
    """Why bubblewrap is not used; empty where it is."""

    @property
    def reads_files(self) -> bool:
        """Whether code may open files for reading: only where it sees none but those of Python."""
        return self.mode == "bubblewrap"

    def command(self, directories: Sequence[str]) -> list[str]:
        """Command line of a sandbox that sees the interpreter, and these directories, and nothing else."""
        python = [sys._base_executable, "-I", "-S"]  # type: ignore[attr-defined]
        if self.mode == "process":
            return [*python, str(_JAIL)]
        visible = [path for path in _SYSTEM_DIRECTORIES if os.path.exists(path)]
        # An interpreter of its own (pyenv, conda, uv) lies outside of /usr.
        visible += [
            path for path in (sys.base_prefix, *directories) if not path.startswith("/usr/")
        ]
        return [
            shutil.which("bwrap") or "bwrap",
            *("--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"),
            *("--cap-drop", "ALL", "--clearenv", "--hostname", "sandbox"),
            # Packages may want a directory for their caches when they are imported. Before the
            # installation, which may itself be somewhere below /tmp.
            *("--size", str(_SCRATCH_BYTES), "--tmpfs", "/tmp"),
            *(
                argument
                for path in dict.fromkeys(visible)
                for argument in ("--ro-bind", path, path)
            ),
            *("--ro-bind", str(_JAIL), "/jail.py", "--dev-bind", "/dev/null", "/dev/null"),
            # Last: the mount points above are made in the root.
            *("--remount-ro", "/", "--chdir", "/"),
            *("--", *python, "/jail.py"),
        ]
