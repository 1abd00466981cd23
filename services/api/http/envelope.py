"""The two envelopes of the API: lists and errors, shaped as OpenAI's."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list; the next one is asked for with `after=<last_id>`."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page_of(items: list[tuple[str, Item]], limit: int) -> Page[Item]:
    """A page of (id, item) pairs, of which one more than `limit` was read when there are more."""
    shown = items[:limit]
    return Page(
        data=[item for _, item in shown],
        first_id=shown[0][0] if shown else None,
        last_id=shown[-1][0] if shown else None,
        has_more=len(items) > limit,
    )


def page_after(items: list[tuple[str, Item]], after: str | None, limit: int) -> Page[Item]:
    """A page of a list that was read whole; an unknown `after` starts at the beginning."""
    ids = [item_id for item_id, _ in items]
    start = ids.index(after) + 1 if after in ids else 0
    return page_of(items[start : start + limit + 1], limit)


class ProblemBody(BaseModel):
    """One of several faults, with its place."""

    path: str
    message: str


class ErrorBody(BaseModel):
    """What went wrong."""

    type: str
    """invalid_request_error | authentication_error | permission_error | not_found_error | conflict_error |
    rate_limit_error | capacity_error | internal_error
    """
    code: str
    """A code of services.common.errors."""
    message: str
    param: str | None = None
    """Path of the offending field, when there is one."""
    request_id: str
    problems: list[ProblemBody] | None = None
    """Every fault, where several were found together."""


class ErrorEnvelope(BaseModel):
    """Body of every answer that is no success."""

    error: ErrorBody
