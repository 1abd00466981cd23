"""Clients that hold what others need: connections, memory, threads, streams."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import httpx
import pytest

from services.api.http import heavy, middleware
from services.api.http.protocol import BoundedHttpProtocol
from services.api.http.resources import Resources
from services.common.codec import verdict_to_pb
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc
from services.common.rpc.server import RpcServer
from services.common.trajectory import Outcome, Verdict
from tests.support.control_plane import (
    make_settings,
    migrated_database,
    running_api,
    submit,
)
from tests.support.servers import Postgres

Running = tuple[httpx.Client, Resources]


class SlowReward(reward_pb2_grpc.RewardServiceServicer):
    """Takes its time."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def Verify(
        self, request: reward_pb2.VerifyRequest, context: grpc.ServicerContext
    ) -> reward_pb2.VerifyResponse:
        self.released.wait(20)
        verdict = verdict_to_pb(Verdict(outcome=Outcome.CORRECT, rewards={"accuracy": 1.0}))
        return reward_pb2.VerifyResponse(verdicts=[verdict] * len(request.items))


@pytest.fixture
def reward() -> SlowReward:
    return SlowReward()


@pytest.fixture
def api(
    postgres_server: Postgres, redis_url: str, tmp_path: Path, reward: SlowReward
) -> Iterator[Running]:
    server = RpcServer(
        "127.0.0.1:0",
        lambda target: reward_pb2_grpc.add_RewardServiceServicer_to_server(reward, target),
        [],
    )
    with migrated_database(postgres_server) as url:
        settings = make_settings(url, redis_url, tmp_path / "data", reward_address=server.address)
        with running_api(settings) as running:
            yield running
    server.stop(reward.released.set)


@contextmanager
def connection(http: httpx.Client) -> Iterator[socket.socket]:
    """A connection of a client that does not speak HTTP as one should."""
    with socket.create_connection(("127.0.0.1", http.base_url.port or 0), timeout=10) as client:
        yield client


def read_to_end(client: socket.socket) -> bytes:
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_half_open_requests_are_ended_and_delay_nobody(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHttpProtocol, "head_s", 1.0)
    http, _ = api
    with ExitStack() as stack:
        clients = [stack.enter_context(connection(http)) for _ in range(90)]
        for number, client in enumerate(clients):
            client.sendall((b"", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"\r\n\r\n")[number % 3])
        assert http.get("/healthz").status_code == 200

        began = time.monotonic()
        answers = [read_to_end(client) for client in clients]

    assert time.monotonic() - began < 5
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 408 Request Timeout"}


def test_a_byte_now_and_then_does_not_keep_a_connection(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHttpProtocol, "head_s", 1.0)
    http, _ = api
    # The second request of a connection is no different from the first.
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connection(http) as client:
        client.sendall(first)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        with suppress(OSError):  # reset or broken pipe
            for byte in b"\r\n\r\nGET /healthz HTTP/1.1\r\n" * 20:
                client.sendall(bytes([byte]))
                time.sleep(0.05)
    assert time.monotonic() - began < 4


def test_headers_without_end_are_refused_before_they_fill_memory(api: Running) -> None:
    http, _ = api
    sent = 0
    with connection(http) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        with suppress(OSError):  # reset or broken pipe
            while sent < 160 * 2**20:
                client.sendall(b"x" * 2**16)
                sent += 2**16
    # What the kernels buffer was sent, too.
    assert sent < 16 * 2**20


def test_many_small_headers_are_fine(api: Running) -> None:
    http, _ = api
    headers = {f"x-{number}": "v" * 100 for number in range(200)}

    assert http.get("/healthz", headers=headers).status_code == 200


def test_a_client_that_does_not_read_its_response_is_not_waited_for(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    http, _ = api
    content = b"".join(
        json.dumps({"prompt": str(number) * 4096, "answer": "1"}).encode() + b"\n"
        for number in range(10, 2010)
    )
    uploaded = http.post("/v1/files", files={"file": ("rows.jsonl", content)}, timeout=60)
    path = f"/v1/files/{uploaded.json()['id']}/content"
    assert http.get(path).content == content  # a client that reads gets all of it
    lost: set[int] = set()
    forget = BoundedHttpProtocol.connection_lost

    def note(self: BoundedHttpProtocol, error: Exception) -> None:
        lost.add((self.client or ("", 0))[1])
        forget(self, error)

    monkeypatch.setattr(BoundedHttpProtocol, "connection_lost", note)
    monkeypatch.setattr(BoundedHttpProtocol, "write_s", 0.5)

    with connection(http) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(1024).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 20
        while client.getsockname()[1] not in lost:
            assert time.monotonic() < deadline, "the connection is held"
            time.sleep(0.05)

    assert http.get("/healthz").status_code == 200


def test_a_body_that_stops_arriving_is_not_waited_for(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "_PIECE_S", 0.5)
    http, _ = api
    with connection(http) as client:
        client.sendall(
            b"POST /v1/graders/validate HTTP/1.1\r\nHost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        )
        answer = client.recv(65536)

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"arrives too slowly" in answer


def test_slow_grading_of_one_project_leaves_the_api_to_others_and_says_when_to_retry(
    api: Running, reward: SlowReward
) -> None:
    http, _ = api
    body = {"grader": "accuracy", "model_sample": "42", "item": {"reference_answer": "42"}}

    with ThreadPoolExecutor(60) as pool:
        runs = [pool.submit(http.post, "/v1/graders/run", json=body) for _ in range(60)]
        refused = 60 - heavy._PER_PROJECT
        deadline = time.monotonic() + 15
        while sum(run.done() for run in runs) < refused:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        began = time.monotonic()
        others = [http.get("/v1/jobs").status_code for _ in range(5)]
        listed_s = time.monotonic() - began
        reward.released.set()
        answers = [run.result() for run in runs]

    assert others == [200] * 5
    assert listed_s < 3
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (heavy._PER_PROJECT, refused)
    rejected = next(answer for answer in answers if answer.status_code == 429)
    assert int(rejected.headers["retry-after"]) >= 1
    assert rejected.json()["error"]["code"] == "rate_limited"
    assert http.post("/v1/graders/run", json=body).status_code == 200


def test_event_streams_are_bounded_and_a_closed_one_is_replaced(
    postgres_server: Postgres, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heavy, "_STREAMS_PER_PROJECT", 2)
    with (
        migrated_database(postgres_server) as url,
        running_api(make_settings(url, redis_url, tmp_path / "data")) as (http, resources),
        ExitStack() as stack,
    ):
        job_id = submit(resources.database, tmp_path)
        events, logs = f"/v1/jobs/{job_id}/events", f"/v1/jobs/{job_id}/logs?follow=true"
        accept = {"accept": "text/event-stream"}
        first = stack.enter_context(ExitStack())
        first.enter_context(http.stream("GET", events, headers=accept))
        stack.enter_context(http.stream("GET", logs))

        refused = [http.get(events, headers=accept), http.get(logs)]
        page = http.get(events)
        first.close()
        deadline = time.monotonic() + 10
        while True:
            with http.stream("GET", events, headers=accept) as again:
                if again.status_code == 200:
                    break
            assert time.monotonic() < deadline, "the slot of a closed stream is not free"
            time.sleep(0.1)

    assert [answer.status_code for answer in refused] == [429, 429]
    assert all(answer.headers["retry-after"] == "15" for answer in refused)
    assert page.status_code == 200
