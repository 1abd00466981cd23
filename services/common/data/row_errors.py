"""Why a row cannot be read."""

from typing import Any, Final

_MAX_VALUE_SHOWN: Final = 80


class FieldError(ValueError):
    """A row that cannot be read; the message says why and how to fix it."""


class LayoutError(FieldError):
    """A row that no layout fits, or several; `data.fields` of a job spec settles it."""


def shorten(value: Any) -> str:
    """Return the value as Python writes it, cut to a length that an error message can have."""
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_SHOWN else text[:_MAX_VALUE_SHOWN] + "…"
