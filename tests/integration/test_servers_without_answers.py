"""Servers that accept a connection and never answer: each client has a limit and says what it waited for."""

import socket
from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from services.api.adapters import broker
from services.api.db import database
from services.common import streams

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def silent() -> Iterator[str]:
    """host:port of a server that accepts by its backlog, and reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_the_streams_have_a_limit(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_SOCKET_S", 0.3)

    with streams.connect(f"redis://{silent}/0") as client, pytest.raises(redis.TimeoutError):
        client.ping()


def test_a_wake_up_that_the_broker_does_not_take_is_given_up_and_said(
    silent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(broker, "_SEND_SOCKET_S", 0.3)

    broker.Wakeups(f"redis://{silent}/0").dispatch()

    assert "wake-up" in capsys.readouterr().out


def test_the_database_has_a_limit(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_CONNECT_S", 2)  # the least that libpq takes
    url = f"postgresql+psycopg://u:p@{silent}/d"

    with (
        database.Database(url).begin() as session,
        pytest.raises(OperationalError, match="timeout expired"),
    ):
        session.execute(select(1))
