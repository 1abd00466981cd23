"""PostgreSQL and Valkey as the platform starts them: real programs, a real supervisor."""

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from services.api.embedded.account import postgres_account
from services.api.embedded.processes import ProcessSupervisor
from services.api.embedded.servers import (
    DATABASE_VARIABLE,
    REDIS_VARIABLE,
    ServerUrls,
    start_servers,
)
from tests.support.embedded import open_directory


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


@pytest.fixture(autouse=True)
def _no_outside_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATABASE_VARIABLE, raising=False)
    monkeypatch.delenv(REDIS_VARIABLE, raising=False)


def test_servers_answer_and_no_process_is_left(data_dir: Path) -> None:
    with ProcessSupervisor(data_dir / "logs", print) as supervisor:
        urls = start_servers(supervisor, data_dir, lambda _service: None)
        pids = supervisor.pids()

        assert _row(urls) == (1,)
        assert redis.Redis.from_url(urls.redis).ping()

    assert set(pids) == {"postgres", "valkey"}
    assert not [pid for pid in pids.values() if psutil.pid_exists(pid)]


def test_the_database_survives_a_restart_of_its_server(data_dir: Path) -> None:
    with ProcessSupervisor(data_dir / "logs", print) as supervisor:
        first = start_servers(supervisor, data_dir, lambda _service: None)
        _execute(first, "CREATE TABLE kept AS SELECT 42 AS value")

    with ProcessSupervisor(data_dir / "logs", print) as supervisor:
        second = start_servers(supervisor, data_dir, lambda _service: None)

        assert _row(second, "SELECT value FROM kept") == (42,)


def test_a_wrong_password_is_refused_by_both_servers(data_dir: Path) -> None:
    with ProcessSupervisor(data_dir / "logs", print) as supervisor:
        urls = start_servers(supervisor, data_dir, lambda _service: None)
        password = (data_dir / "server-password").read_text()

        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(_conninfo(urls).replace(password, "guess"))
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(urls.redis.replace(password, "guess")).ping()
    assert stat.S_IMODE((data_dir / "server-password").stat().st_mode) == 0o600


def test_a_crashed_server_comes_back_at_the_same_address(data_dir: Path) -> None:
    reports: list[str] = []
    with ProcessSupervisor(data_dir / "logs", reports.append) as supervisor:
        urls = start_servers(supervisor, data_dir, lambda _service: None)
        killed = supervisor.pids()["valkey"]
        os.kill(killed, signal.SIGKILL)

        _until(lambda: supervisor.pids().get("valkey", killed) != killed)
        _until(lambda: _pings(urls.redis))

    assert any("valkey ended (signal SIGKILL)" in line for line in reports)


def test_servers_of_the_user_are_used_and_nothing_is_started(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str, database_url: str
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, database_url)
    monkeypatch.setenv(REDIS_VARIABLE, redis_url)
    with ProcessSupervisor(data_dir / "logs", print) as supervisor:
        urls = start_servers(supervisor, data_dir, lambda _service: None)

        assert (urls.database, urls.redis) == (database_url, redis_url)
        assert supervisor.pids() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_as_root_the_cluster_lies_elsewhere_when_its_account_cannot_enter_the_data_directory(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    (closed / "data").mkdir()
    (data_dir / "system").mkdir(mode=0o755)
    monkeypatch.setattr("services.api.embedded.postgres._SYSTEM_DIR", data_dir / "system")
    with ProcessSupervisor(data_dir / "logs", print) as supervisor:
        urls = start_servers(supervisor, closed / "data", lambda _service: None)

        assert _row(urls) == (1,)
        account = postgres_account()
        assert account is not None
        assert psutil.Process(supervisor.pids()["postgres"]).uids().effective == account.uid
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def _conninfo(urls: ServerUrls) -> str:
    return urls.database.replace("postgresql+psycopg://", "postgresql://")


def _row(urls: ServerUrls, query: str = "SELECT 1") -> tuple[object, ...] | None:
    with psycopg.connect(_conninfo(urls)) as connection:
        return connection.execute(query.encode()).fetchone()


def _execute(urls: ServerUrls, statement: str) -> None:
    with psycopg.connect(_conninfo(urls)) as connection:
        connection.execute(statement.encode())


def _pings(url: str) -> bool:
    try:
        return bool(redis.Redis.from_url(url).ping())
    except redis.ConnectionError:
        return False


def _until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
