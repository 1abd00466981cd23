"""Score answers by an environment, in the sandbox: data sets are opened when it starts, before any limit."""

from collections.abc import Mapping
from typing import Any

from services.common.environments.interface import DataSet, Task, open_data_set
from services.common.environments.names import parse_environment_name

_opened: dict[str, DataSet] = {}


def prepare(name: str) -> None:
    """Open a data set; raises ValueError."""
    _opened[name] = open_data_set(parse_environment_name(name))


def score(name: str, index: int, task: Mapping[str, Any], answer: str) -> float:
    """Return the score of an answer to a task, whose fields `task` has."""
    return _opened[name].score(index, Task(**task), answer)
