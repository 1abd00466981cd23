"""A job's events as server-sent events: the stored ones, then new ones, until the job is over."""

from collections.abc import AsyncIterator
from typing import Final

import anyio
import anyio.to_thread

from services.api.http.resources import Resources
from services.api.use_cases.event_feed import EventFilter

_POLL_S: Final = 0.5
_KEEPALIVE_POLLS: Final = 30


async def event_stream(
    resources: Resources, job_id: str, position: int, wanted: EventFilter
) -> AsyncIterator[str]:
    """Events after `position`; a comment every 15 s keeps proxies awake; `event: done` ends a
    finished job's stream.
    """
    quiet_polls = 0
    while not resources.stopping.is_set():
        head = await anyio.to_thread.run_sync(resources.feed.head, job_id)
        if head.position > position:
            batch = await anyio.to_thread.run_sync(
                resources.feed.batch, job_id, position, wanted, head
            )
            for event in batch.events:
                data = event.model_dump_json()
                yield f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n"
            position, quiet_polls = batch.position, 0
            continue
        if head.is_over:
            yield "event: done\ndata: [DONE]\n\n"
            return
        quiet_polls += 1
        if quiet_polls % _KEEPALIVE_POLLS == _KEEPALIVE_POLLS - 1:
            yield ": keepalive\n\n"
        await anyio.sleep(_POLL_S)
