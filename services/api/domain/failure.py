"""Why something failed, as it is shown to users."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """A code of services.common.errors with its message."""

    code: str
    message: str
