"""Errors of the file system as errors of the platform: which of them say that a disk is full."""

import errno
import os
from typing import Final

from services.common.errors import PlatformError

STORAGE_EXITS: Final = {"disk_full": os.EX_CANTCREAT, "storage_unavailable": os.EX_IOERR}
"""Exit status of a process that cannot write down why it failed, by the code of the error."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FAULTS: Final = _FULL | {errno.EROFS, errno.EIO, errno.ESTALE}


def is_storage_fault(error: OSError) -> bool:
    """Whether the volume is full, read-only or broken, whatever the program asked of it."""
    return error.errno in _FAULTS


def to_storage_error(
    action: str, error: OSError, *, code: str = "storage_unavailable"
) -> PlatformError:
    """Return `disk_full`, or `code` for any other error, with what could not be done.

    `action` names the path: an OSError of a copy names its source, which has space enough.
    """
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return PlatformError(
            "disk_full", f"Cannot {action}: {reason}.", hint="Free space on that volume."
        )
    return PlatformError(
        code,
        f"Cannot {action}: {reason}.",
        hint="Check the volume: mounted, writable, without errors.",
    )
