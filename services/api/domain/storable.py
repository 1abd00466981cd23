"""JSON values as PostgreSQL can hold them."""

import math
from typing import Any


def storable(value: Any) -> Any:
    """`value` without what jsonb refuses: NUL characters become U+FFFD, numbers that are not finite
    become null.

    A model may well say NUL, and a loss may well be NaN; neither may cost the event it came in.
    """
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value
