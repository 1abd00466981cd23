"""HTTP services that answer POST requests as a test says."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the service answers."""

    body: Any
    """Text as it is, anything else as JSON."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """What the service was sent."""

    path: str
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.text)


Answer = Callable[[Request], Reply]


@dataclass
class HttpStub:
    """A running service and what it was sent."""

    url: str
    requests: list[Request]


@contextmanager
def http_stub(answer: Answer) -> Iterator[HttpStub]:
    """Serve on a free port of this machine."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.path, headers, self.rfile.read(length).decode())
            requests.append(request)
            reply = answer(request)
            text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # the client did not wait
                self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield HttpStub(f"http://127.0.0.1:{server.server_address[1]}", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chat_reply(content: str, tokens: int = 0) -> Reply:
    """A chat completion with a text."""
    usage = {"usage": {"total_tokens": tokens}} if tokens else {}
    return Reply({"choices": [{"message": {"role": "assistant", "content": content}}], **usage})
