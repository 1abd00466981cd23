"""Limits on a client, which uvicorn's protocol over httptools does not have: one that opens
connections and sends nothing, sends a byte now and then, sends headers without end, or does not read
its response must not hold a connection or memory.
"""

from asyncio import TimerHandle, Transport
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_HEAD_S: Final = 10.0
_HEAD_BYTES: Final = 64 * 2**10
_WRITE_S: Final = 60.0
"""Within it a client must have read what the connection buffers, 64 KiB."""
_MAX_CONNECTIONS: Final = 1000
"""Requests on further ones get a 503 at once."""
_DRAIN_S: Final = 5


def make_server_config(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """Configuration of the server that serves the API, with the limits on its clients."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedHttpProtocol,
        limit_concurrency=_MAX_CONNECTIONS,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_DRAIN_S,
    )


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection, with limits on a request line with its headers and on a response that is not read."""

    head_s = _HEAD_S
    write_s = _WRITE_S

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_timer: TimerHandle | None = None
        self._head_bytes = 0
        self._write_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the limits."""
        self._end_head()
        self._end_write()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, then count what belongs to a head that is not complete."""
        # Blank lines ahead of a request are data that begins no message.
        if self.cycle is None or self.cycle.response_complete:
            self._begin_head()
        super().data_received(data)
        if self._head_timer is None:
            return
        self._head_bytes += len(data)
        if self._head_bytes > _HEAD_BYTES:
            self._refuse(431, f"The headers are larger than {_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Begin a request, possibly behind another one."""
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        """Begin the body, which the application limits."""
        self._end_head()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The buffer is full: the client has to read within the limit."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        self._end_write()
        super().resume_writing()

    def _end_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _begin_head(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(
                self.head_s, self._refuse, 408, f"No complete headers within {self.head_s:g} s."
            )

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, message: str) -> None:
        self._end_head()
        if self.transport.is_closing():
            return
        body = message.encode()
        head = (
            f"content-type: text/plain\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()
