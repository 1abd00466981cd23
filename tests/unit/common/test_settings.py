"""Settings from the environment."""

import pytest

from services.common.settings import CommonSettings, HostPort, HostPorts, read_settings


class Example(CommonSettings):
    """Settings of a made-up service."""

    example_listen: HostPort = "127.0.0.1:1"
    example_peers: HostPorts = ()


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRL_EXAMPLE_LISTEN", "0.0.0.0:80")
    monkeypatch.setenv("DIRL_EXAMPLE_PEERS", "a:1, b:2,")
    monkeypatch.setenv("DIRL_DATA_DIR", "/data")

    settings = read_settings(Example)

    assert settings.example_listen == "0.0.0.0:80"
    assert settings.example_peers == ("a:1", "b:2")
    assert str(settings.data_dir) == "/data"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRL_EXAMPLE_LISTEN", "")

    assert read_settings(Example).example_listen == "127.0.0.1:1"


def test_all_problems_are_reported_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRL_EXAMPLE_LISTEN", "localhost")
    monkeypatch.setenv("DIRL_EXAMPLE_PEERS", "a:1,b:70000")
    monkeypatch.setenv("DIRL_LOG_FORMAT", "xml")

    with pytest.raises(SystemExit) as ended:
        read_settings(Example)

    message = str(ended.value)
    assert "3 problem(s)" in message
    assert "DIRL_EXAMPLE_LISTEN: Value error, must be host:port" in message
    assert "DIRL_EXAMPLE_PEERS.1" in message
    assert "DIRL_LOG_FORMAT" in message
    assert "'xml'" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("REDIS_URL", "redis://:change-me@valkey:6379/0"), ("RPC_TOKEN", "change-me")],
)
def test_nothing_starts_with_a_secret_of_the_example_file(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"DIRL_{name}", value)

    with pytest.raises(
        SystemExit, match=rf"DIRL_{name}.*the (value of the )?example.*openssl rand"
    ):
        read_settings(Example)


def test_the_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRL_RPC_TOKEN", "very-secret")

    assert "very-secret" not in repr(read_settings(Example))
