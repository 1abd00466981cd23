"""The release that this process runs."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

_DISTRIBUTION: Final = "dirl-platform"


def release() -> str:
    """Version of the installed distribution; "unreleased" in a source tree that was not installed."""
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "unreleased"
