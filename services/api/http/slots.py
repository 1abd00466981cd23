"""Slots that a request holds until its response is sent."""

from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import Depends, Request

from services.api.http.auth import Who
from services.api.http.resources import Res

_EVENT_STREAM: Final = "text/event-stream"
_TRUE: Final = ("true", "1", "on", "yes")


async def _hold_heavy_slot(resources: Res, caller: Who) -> AsyncIterator[None]:
    with resources.heavy.slots.take(caller.project):
        yield


async def _hold_stream_slot(resources: Res, caller: Who, request: Request) -> AsyncIterator[None]:
    # One route serves pages and streams.
    wants_stream = _EVENT_STREAM in request.headers.get("accept", "") or (
        request.query_params.get("follow", "").lower() in _TRUE
    )
    if not wants_stream:
        yield
        return
    with resources.streams.take(caller.project):
        yield


HoldsHeavySlot = Annotated[None, Depends(_hold_heavy_slot)]
"""The request holds a slot until its response is sent."""
HoldsStreamSlot = Annotated[None, Depends(_hold_stream_slot)]
"""The request holds a slot while its events are streamed."""
