"""Who may call a service: the shared token, TLS of both sides, and no plaintext beyond this
machine.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.api.operations.certificates import ensure_certificates
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import trainer_pb2, trainer_pb2_grpc
from services.common.rpc import security
from services.common.rpc.client import call, channel, probe
from services.common.rpc.security import is_loopback, rpc_security
from services.common.rpc.server import RpcServer
from tests.support.control_plane import ScriptedTrainer, serving


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    """The environment is read anew in every test."""
    rpc_security.cache_clear()
    yield
    rpc_security.cache_clear()


def secure(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Let the process have these settings."""
    for name in ("TOKEN", "TLS_DIR"):
        monkeypatch.delenv(f"DIRL_RPC_{name}", raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"DIRL_RPC_{name.upper()}", value)
    rpc_security.cache_clear()


def status(address: str) -> str:
    """State of the scripted trainer."""
    with channel(address) as connection:
        stub = trainer_pb2_grpc.TrainerServiceStub(connection)
        return call(
            stub.GetStatus, trainer_pb2.GetTrainerStatusRequest(), timeout_s=10, what="GetStatus"
        ).state


def test_a_call_with_the_token_is_served_and_one_with_another_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secure(monkeypatch, token="secret-a")
    with serving(ScriptedTrainer()) as address:
        served = status(address)
        other = channel_with(monkeypatch, "secret-b", address)
        none = channel_with(monkeypatch, "", address)
        healthy = probe(address, 5.0)

    assert (served, healthy) == ("idle", True)
    assert [error.code for error in (other, none)] == ["unauthenticated"] * 2
    assert "secret" not in other.message + none.message


def channel_with(monkeypatch: pytest.MonkeyPatch, token: str, address: str) -> PlatformError:
    """How a caller with another token fails; the server's own is put back."""
    secure(monkeypatch, token=token)
    with channel(address) as connection:
        secure(monkeypatch, token="secret-a")
        stub = trainer_pb2_grpc.TrainerServiceStub(connection)
        with pytest.raises(PlatformError) as caught:
            call(
                stub.GetStatus,
                trainer_pb2.GetTrainerStatusRequest(),
                timeout_s=10,
                what="GetStatus",
            )
    return caught.value


def test_nothing_is_said_or_heard_in_plaintext_beyond_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secure(monkeypatch)

    with pytest.raises(PlatformError, match="DIRL_RPC_TLS_DIR") as caught:
        channel("trainer.example:50053")
    with pytest.raises(RuntimeError, match="without encryption"):
        RpcServer("0.0.0.0:0", lambda server: None, [])

    assert caught.value.code == "permission_denied"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_what_counts_as_this_machine(address: str, local: bool) -> None:
    assert is_loopback(address) is local


def test_with_certificates_of_one_authority_services_talk_and_strangers_are_cut_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours, strangers = certificates(tmp_path / "ours"), certificates(tmp_path / "strangers")
    secure(monkeypatch, tls_dir=str(ours))
    with serving(ScriptedTrainer()) as address:
        served = status(address)
        secure(monkeypatch, tls_dir=str(strangers))
        with pytest.raises(PlatformError) as stranger:
            status(address)
        secure(monkeypatch)
        with pytest.raises(PlatformError) as plain:
            status(address)

    assert served == "idle"
    assert (stranger.value.code, plain.value.code) == ("worker_lost", "worker_lost")


def certificates(directory: Path) -> Path:
    """An authority and a certificate for 127.0.0.1 signed by it."""
    directory.mkdir()
    ensure_certificates(directory, ["127.0.0.1"])
    return directory


def test_the_command_for_probes_says_whether_a_server_serves() -> None:
    command = [sys.executable, "-m", "services.common.rpc.health"]
    with serving(ScriptedTrainer()) as address:
        up = subprocess.run([*command, address], capture_output=True, text=True, check=False)
    down = subprocess.run([*command, address], capture_output=True, text=True, check=False)

    assert (up.returncode, down.returncode) == (0, 1), up.stderr
    assert f"{address} is not SERVING" in down.stderr


def test_a_service_waits_for_certificates_that_are_not_there_yet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secure(monkeypatch, tls_dir=str(tmp_path))
    later = threading.Timer(0.7, ensure_certificates, (tmp_path, ["127.0.0.1"]))
    later.start()

    with serving(ScriptedTrainer()) as address:
        assert status(address) == "idle"
    later.join()


def test_without_certificates_a_service_ends_and_a_call_fails_and_both_say_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(security, "_CERTIFICATES_S", 0.0)
    secure(monkeypatch, tls_dir=str(tmp_path))

    with pytest.raises(RuntimeError, match="DIRL_RPC_TLS_DIR"):
        RpcServer("127.0.0.1:0", lambda server: None, [])
    with pytest.raises(PlatformError, match=r"ca\.pem"):
        channel("trainer.example:50053")
