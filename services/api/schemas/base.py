"""What all schemas share: where their values come from, and how times are written."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _to_timestamp(value: object) -> object:
    return value.timestamp() if isinstance(value, datetime) else value


def _to_whole_seconds(value: object) -> object:
    return int(value.timestamp()) if isinstance(value, datetime) else value


UnixSeconds = Annotated[int, BeforeValidator(_to_whole_seconds)]
"""Whole Unix seconds; a datetime is accepted."""
UnixTime = Annotated[float, BeforeValidator(_to_timestamp)]
"""Unix seconds with fraction; a datetime is accepted."""


class View(BaseModel):
    """A response, read from a row's attributes or from JSON."""

    model_config = ConfigDict(from_attributes=True)


class RequestBody(BaseModel):
    """A request; unknown keys are refused, so that no misspelled one is silently ignored."""

    model_config = ConfigDict(extra="forbid")


class FailureView(View):
    """Why something failed."""

    code: str
    message: str
