"""Rewards that compare with no reference answer teach: programs and an environment."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.rewards_learn import run_code, run_environment
from services.api.client import ApiClient
from tests.support.embedded import local_platform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture
def place() -> Iterator[tuple[ApiClient, Path]]:
    """A platform of its own and a directory for inputs."""
    with local_platform() as platform, ApiClient(platform.api_url) as api:
        directory = platform.data_dir / "input"
        directory.mkdir()
        yield api, directory


def test_programs_that_pass_their_tests_become_more(place: tuple[ApiClient, Path]) -> None:
    result = run_code(*place)
    assert result["after"]["reward"] >= result["before"]["reward"] + 0.20, result


def test_a_task_of_reasoning_gym_improves_by_its_own_scorer(place: tuple[ApiClient, Path]) -> None:
    result = run_environment(*place)
    assert result["after"]["reward"] >= result["before"]["reward"] + 0.20, result
