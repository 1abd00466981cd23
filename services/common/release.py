"""The release of the running process."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

_DISTRIBUTION: Final = "dirl-platform"


def release() -> str:
    """Return the version of the installed distribution; "unreleased" in a plain source tree."""
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "unreleased"
