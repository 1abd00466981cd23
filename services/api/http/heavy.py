"""Requests that take seconds or minutes: grading, generating, estimating, reading whole files.

They have threads of their own. In the pool that serves all other requests, a few dozen slow ones of
one project would stop the rest of the API.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Final, ParamSpec, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from services.api.domain.slots import Slots

_THREADS: Final = 64
_PER_PROJECT: Final = 8
_RETRY_AFTER_S: Final = 2.0
_STREAMS: Final = 256
_STREAMS_PER_PROJECT: Final = 64
_STREAM_RETRY_AFTER_S: Final = 15.0

P = ParamSpec("P")
T = TypeVar("T")


class HeavyWork:
    """The threads and their slots."""

    def __init__(self) -> None:
        self.slots = Slots(
            "long requests",
            per_project=_PER_PROJECT,
            total=_THREADS,
            retry_after_s=_RETRY_AFTER_S,
        )
        # As many threads as slots: a request that was admitted does not wait for a thread.
        self._threads = CapacityLimiter(_THREADS)

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call in a thread; the request must hold a slot."""
        return await run_sync(partial(work, *args, **options), limiter=self._threads)

    async def iterate(self, frames: Iterator[T]) -> AsyncIterator[T]:
        """Take each item in a thread; the request must hold a slot until the end."""
        while (frame := await self.run(lambda: next(frames, None))) is not None:
            yield frame


def stream_slots() -> Slots:
    """Slots of event streams, which stay open for as long as a job runs."""
    return Slots(
        "event streams",
        per_project=_STREAMS_PER_PROJECT,
        total=_STREAMS,
        retry_after_s=_STREAM_RETRY_AFTER_S,
    )
