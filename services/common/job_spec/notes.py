"""What the JSON schema says of a key besides its type, default, range and description."""

from typing import Final

from pydantic.config import JsonDict

PAPER: Final = "DiRL paper (arXiv 2512.22234)"
CONFIGURATION: Final = "configuration in the DiRL repository"


def notes(*, unit: str | None = None, source: str | None = None) -> JsonDict:
    """Return the JSON schema's `unit` of a number and `source` of a default.

    A default without a source is a choice of this platform.
    """
    given: JsonDict = {"unit": unit, "source": source}
    return {name: value for name, value in given.items() if value is not None}
