"""Names of environments, what is refused, and what a package of others needs to do."""

import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest

from services.common.environments import interface
from services.common.environments.__main__ import make_rows
from services.common.environments.interface import Task, open_data_set
from services.common.environments.names import is_environment_name, parse_environment_name
from services.common.errors import ProblemsError
from services.common.job_spec import parse_spec


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reasoning-gym:chain_sum", True),
        ("reasoning-gym:chain_sum?seed=1&max_terms=2", True),
        ("file_0123", False),
        ("/data/train.jsonl", False),
        ("train.jsonl", False),
        ("C:\\train.jsonl", False),
        ("https://host/x", False),
    ],
)
def test_environments_are_told_from_files(name: str, expected: bool) -> None:
    assert is_environment_name(name) is expected


def test_equal_data_sets_have_equal_names() -> None:
    first = parse_environment_name("e:d?b=true&a=[1,2]&seed=3&c=text")
    second = parse_environment_name("e:d?c=text&seed=3&a=[1,%202]&b=true&size=1000")
    assert str(first) == str(second)
    assert first.parameters == {"a": [1, 2], "b": True, "c": "text"}
    assert parse_environment_name(str(first)) == first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("e:d?size=0", "size is 0"),
        ("e:d?size=100001", "an integer from 1 to 100000"),
        ("e:d?size=1e3", "size is 1000.0"),
        ("e:d?seed=-1", "seed is -1"),
        ("e:d?seed=true", "seed is True"),
        ("e:d?a=1&a=2", "twice"),
        ("e:d?a", "cannot be read"),
        ("nope:d", "no environment 'nope'; there are .*reasoning-gym"),
        ("reasoning-gym:chain_summ", "no data set 'chain_summ'; it has .*chain_sum"),
        ("reasoning-gym:chain_sum?terms=3", "no parameter 'terms'; it has .*max_terms"),
        ("reasoning-gym:chain_sum?min_terms=5&max_terms=2", "max_terms must be >= min_terms"),
        ("reasoning-gym:chain_sum?max_terms=many", "refuses its parameters"),
    ],
)
def test_a_name_that_cannot_be_used_says_why(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(make_rows(parse_environment_name(name)))


def test_rows_depend_on_the_seed_and_are_the_same_again() -> None:
    def prompts(seed: int) -> list[str]:
        name = parse_environment_name(f"reasoning-gym:chain_sum?size=5&seed={seed}")
        return [row["prompt"] for row in make_rows(name)]

    assert prompts(1) == prompts(1) != prompts(2)


class _Sorting:
    data_sets = ("words",)

    def open(
        self, data_set: str, *, seed: int, size: int, parameters: Mapping[str, Any]
    ) -> "_Sorting":
        return self

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Task:
        return Task(f"sort {index}", metadata={"level": index})

    def score(self, index: int, task: Task, answer: str) -> float:
        return float(answer == task.prompt)


def test_a_package_of_others_registers_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("my-tasks", "my_tasks:made.ENVIRONMENT", interface.GROUP)
    monkeypatch.setattr(
        interface, "entry_points", lambda group: [entry] if group == "dirl.environments" else []
    )
    monkeypatch.setitem(
        sys.modules, "my_tasks", SimpleNamespace(made=SimpleNamespace(ENVIRONMENT=_Sorting()))
    )  # type: ignore[arg-type]
    rows = list(make_rows(parse_environment_name("my-tasks:words?size=2")))
    assert rows[1] == {
        "id": "words-0-1",
        "prompt": "sort 1",
        "environment": "my-tasks:words?seed=0&size=2",
        "index": 1,
        "metadata": {"level": 1},
    }
    assert open_data_set(parse_environment_name("my-tasks:words")).score(0, Task("x"), "x") == 1.0


SPEC = {"model": "/model", "method": "rl", "training_file": "reasoning-gym:chain_sum"}


def test_a_job_on_environments_is_graded_by_them_unless_it_says_how() -> None:
    assert [grader.type for grader in parse_spec(SPEC).reward.graders] == ["environment"]
    own = {**SPEC, "reward": {"graders": ["accuracy"]}}
    assert [grader.type for grader in parse_spec(own).reward.graders] == ["accuracy"]
    mixed = {**SPEC, "validation_file": "/test.jsonl"}
    assert [grader.type for grader in parse_spec(mixed).reward.graders] == ["accuracy"]
    timed = parse_spec({**SPEC, "reward": {"timeout_s": 9}})
    assert ([grader.type for grader in timed.reward.graders], timed.reward.timeout_s) == (
        ["environment"],
        9,
    )


def test_a_bad_reward_section_is_still_an_error_of_its_own() -> None:
    with pytest.raises(ProblemsError):
        parse_spec({**SPEC, "reward": 3})
