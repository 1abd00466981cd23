"""Why something failed, as it is shown to users."""

from dataclasses import dataclass

from services.common.errors import PlatformError


@dataclass(frozen=True)
class Failure:
    """A code of services.common.errors with its message."""

    code: str
    message: str


def make_not_found(
    kind: str, name: str, listing: str | None = None, *, param: str | None = None
) -> PlatformError:
    """The error for an id that does not exist; `listing` is the request that lists those that do."""
    hint = None if listing is None else f"{listing} lists them."
    return PlatformError("not_found", f"No {kind} with id {name!r}.", hint=hint, param=param)
