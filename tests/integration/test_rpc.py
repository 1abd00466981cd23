"""Errors, deadlines and health over real gRPC."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import grpc
import pytest
import structlog
from pydantic import TypeAdapter
from structlog.testing import capture_logs

from services.common.errors import ERROR_KINDS, PlatformError
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc
from services.common.rpc.client import call, channel, probe
from services.common.rpc.options import CHANNEL_OPTIONS
from services.common.rpc.server import RpcServer
from tests.support.processes import ROOT
from tests.support.servers import free_address

REQUEST = reward_pb2.VerifyRequest()


class Programmable(reward_pb2_grpc.RewardServiceServicer):
    """A service that does what the test tells it."""

    behaviour: Callable[[grpc.ServicerContext], None]

    def Verify(
        self, request: reward_pb2.VerifyRequest, context: grpc.ServicerContext
    ) -> reward_pb2.VerifyResponse:
        self.behaviour(context)
        return reward_pb2.VerifyResponse()


class Peer:
    """A served Programmable and a stub for it."""

    def __init__(self, connection: grpc.Channel, address: str, servicer: Programmable) -> None:
        self.verify = reward_pb2_grpc.RewardServiceStub(connection).Verify
        self.address, self.servicer = address, servicer

    def raises(self, error: Exception) -> None:
        def behaviour(_context: grpc.ServicerContext) -> None:
            raise error

        self.servicer.behaviour = behaviour

    def error_of_call(self, timeout_s: float = 10.0) -> PlatformError:
        with pytest.raises(PlatformError) as raised:
            call(self.verify, REQUEST, timeout_s=timeout_s, what="Verify on the test service")
        return raised.value


@pytest.fixture
def peer() -> Iterator[Peer]:
    servicer = Programmable()
    servicer.behaviour = lambda context: None
    server = RpcServer(
        "127.0.0.1:0",
        lambda s: reward_pb2_grpc.add_RewardServiceServicer_to_server(servicer, s),
        ["dirl.v1.RewardService"],
    )
    with channel(server.address) as connection:
        yield Peer(connection, server.address, servicer)
    server.stop(lambda: None)


@pytest.mark.parametrize("code", ERROR_KINDS)
def test_every_code_names_a_grpc_status_and_comes_back_as_itself(peer: Peer, code: str) -> None:
    peer.raises(PlatformError(code, "Cannot do it: 7 is odd.", hint="Take 8."))

    error = peer.error_of_call()

    assert error.code == code
    assert str(error) == "Verify on the test service failed: Cannot do it: 7 is odd. Take 8."
    assert isinstance(error.__cause__, grpc.Call)
    assert error.__cause__.code() is grpc.StatusCode[ERROR_KINDS[code].grpc_status]


def test_a_value_that_fails_validation_is_an_invalid_request(peer: Peer) -> None:
    def behaviour(_context: grpc.ServicerContext) -> None:
        TypeAdapter(int).validate_python("seven")

    peer.servicer.behaviour = behaviour

    assert peer.error_of_call().code == "invalid_request"


def test_any_other_exception_is_internal_and_logged_with_its_traceback(peer: Peer) -> None:
    peer.raises(ZeroDivisionError("by zero"))

    with capture_logs() as logs:
        error = peer.error_of_call()

    assert error.code == "internal"
    assert "ZeroDivisionError: by zero" in str(error)
    assert [entry["event"] for entry in logs if entry.get("exc_info")] == ["rpc failed"]


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_a_proxy_in_the_environment_is_not_used_between_services(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A company's proxy cannot reach the services, which call each other directly."""
    monkeypatch.setenv(variable, f"http://{free_address()}")

    with channel(peer.address) as connection:
        stub = reward_pb2_grpc.RewardServiceStub(connection)
        call(stub.Verify, REQUEST, timeout_s=5.0, what="Verify on the test service")


def test_a_call_without_a_deadline_is_refused(peer: Peer) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        peer.verify(REQUEST)

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "without a deadline" in raised.value.details()


def test_a_deadline_that_passes_has_its_own_code(peer: Peer) -> None:
    def behaviour(context: grpc.ServicerContext) -> None:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(20)

    peer.servicer.behaviour = behaviour

    assert peer.error_of_call(timeout_s=0.2).code == "deadline_exceeded"


def test_a_service_that_is_not_there_has_the_code_the_caller_chose() -> None:
    with channel(free_address()) as connection, pytest.raises(PlatformError) as raised:
        call(
            reward_pb2_grpc.RewardServiceStub(connection).Verify,
            REQUEST,
            timeout_s=5,
            what="Verify",
            unavailable_code="verifier_unavailable",
        )

    assert raised.value.code == "verifier_unavailable"
    assert raised.value.retryable


def test_a_message_longer_than_metadata_allows_still_arrives(peer: Peer) -> None:
    peer.raises(PlatformError("dataset_invalid", "ü" * 100_000))

    error = peer.error_of_call()

    assert error.code == "dataset_invalid"
    assert str(error).endswith("(truncated; see the log of the server)")


def test_the_request_id_travels_to_the_servers_log_context(peer: Peer) -> None:
    seen: list[object] = []
    peer.servicer.behaviour = lambda context: seen.append(
        structlog.contextvars.get_contextvars().get("request_id")
    )

    with structlog.contextvars.bound_contextvars(request_id="req-7"):
        for _ in range(20):
            call(peer.verify, REQUEST, timeout_s=5, what="Verify")
    for _ in range(20):
        call(peer.verify, REQUEST, timeout_s=5, what="Verify")

    assert seen == ["req-7"] * 20 + [None] * 20


def test_probe_tells_a_serving_address_from_a_dead_one(peer: Peer) -> None:
    assert probe(peer.address, 5.0)
    assert not probe(free_address(), 0.5)


def test_a_taken_port_is_refused_rather_than_shared(peer: Peer) -> None:
    with pytest.raises(RuntimeError, match="Failed to bind"):
        RpcServer(peer.address, lambda server: None, [])


SERVICE = """
import sys
from services.common.rpc.server import run_server
from services.common.telemetry.logs import configure_logging
configure_logging("probe", "info", "json")
run_server("probe", sys.argv[1], lambda server: None, [], lambda: print("on_stop ran", flush=True))
"""


def test_a_server_process_says_when_it_is_ready_and_ends_on_sigterm() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, "127.0.0.1:0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        ready = process.stderr.readline()
        process.terminate()
        output, log = process.communicate(timeout=20)

    assert '"event": "probe ready"' in ready
    assert '"address": "127.0.0.1:' in ready
    assert (process.returncode, output) == (0, "on_stop ran\n")
    assert "probe stopped" in log


def test_a_server_process_that_cannot_listen_says_so_and_fails(peer: Peer) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SERVICE, peer.address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.returncode == 1
    assert f"cannot listen on {peer.address}" in ended.stderr


def test_servers_behind_one_name_take_turns() -> None:
    counts = [0, 0]

    def counting(place: int) -> Callable[[grpc.ServicerContext], None]:
        def behaviour(_context: grpc.ServicerContext) -> None:
            counts[place] += 1

        return behaviour

    servers = []
    for place in (0, 1):
        servicer = Programmable()
        servicer.behaviour = counting(place)
        register = partial(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        servers.append(RpcServer("127.0.0.1:0", register, []))
    name = f"ipv4:{','.join(server.address for server in servers)}"
    with grpc.insecure_channel(name, options=CHANNEL_OPTIONS) as connection:
        verify = reward_pb2_grpc.RewardServiceStub(connection).Verify
        deadline = time.monotonic() + 20
        while min(counts) < 5 and time.monotonic() < deadline:
            call(verify, REQUEST, timeout_s=10, what="Verify")
    for server in servers:
        server.stop(lambda: None)

    assert min(counts) >= 5
