"""The two envelopes of the API: lists and errors, shaped as OpenAI's."""

from typing import Generic, Literal, TypeVar

from services.api.schemas.base import View

Item = TypeVar("Item")


class Page(View, Generic[Item]):
    """One page of a list; the next one is asked for with `after=<last_id>`."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ProblemBody(View):
    """One of several problems, with the path of its field."""

    path: str
    message: str


class ErrorBody(View):
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
    """Every problem, where several were found together."""


class ErrorEnvelope(View):
    """Body of every response that reports an error."""

    error: ErrorBody
