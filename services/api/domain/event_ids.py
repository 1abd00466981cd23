"""Ids of a job's events: they hold the event's position, so that a cursor needs no look-up."""

from typing import Final

from services.common.errors import PlatformError

_MAX_DIGITS: Final = 18
"""Of a number that the database can hold."""


def to_event_id(job_id: str, position: int) -> str:
    """Id of the event at a position; later events of a job have greater positions."""
    return f"evt_{job_id.removeprefix('job_')}_{position}"


def parse_position(cursor: str | None) -> int:
    """Position in an id that ends with one; 0, before the first, for None.

    Raises PlatformError("invalid_request").
    """
    if cursor is None:
        return 0
    number = cursor.rpartition("_")[2]
    if not (number.isascii() and number.isdecimal()) or len(number) > _MAX_DIGITS:
        raise PlatformError(
            "invalid_request",
            f"after={cursor!r} is not an id of this list; pass the last_id of the previous page.",
            param="after",
        )
    return int(number)
