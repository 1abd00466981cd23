"""A hub of data sets on this machine: what `huggingface_hub` asks for, and which requests it made."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
NO_HEADERS: Mapping[str, str] = {}


@dataclass
class Hub:
    """Repositories with their files, and the paths that were requested."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    configs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    private: set[str] = field(default_factory=set)
    token: str = "hf_secret"
    requests: list[str] = field(default_factory=list)
    fails: bool = False


@contextmanager
def run_hub() -> Iterator[Hub]:
    """A hub that runs until the block ends."""
    hub = Hub()

    class BoundHandler(_Handler):
        def get_hub(self) -> Hub:
            return hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), BoundHandler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def get_hub(self) -> Hub:
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.get_hub(), unquote(urlsplit(self.path).path)
        hub.requests.append(path)
        parts = path.strip("/").split("/")
        is_api = parts[0] == "api"
        repository = "/".join(parts[2:4] if is_api else parts[1:3])
        has_token = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if hub.fails:
            self._send(503, b"")
        elif repository not in hub.files or (repository in hub.private and not has_token):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif is_api:
            kind, revision = parts[4:6] if len(parts) > 5 else ("revision", "main")
            self._describe(hub, repository, kind, revision)
        else:
            content = hub.files[repository]["/".join(parts[5:])]
            etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            headers = {"X-Repo-Commit": hub.commits[parts[4]], "ETag": f'"{etag}"'}
            self._send(200, content, headers)

    def _describe(self, hub: Hub, repository: str, kind: str, revision: str) -> None:
        if revision not in hub.commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        files = hub.files[repository]
        answer: Any = {
            "id": repository,
            "sha": hub.commits[revision],
            "private": repository in hub.private,
            "gated": False,
            "cardData": {"configs": hub.configs.get(repository, [])},
            "siblings": [{"rfilename": name, "size": len(text)} for name, text in files.items()],
        }
        if kind == "tree":
            answer = [
                {"type": "file", "path": name, "size": len(text), "oid": "0" * 40}
                for name, text in files.items()
            ]
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
