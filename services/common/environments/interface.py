"""What a package implements to offer environments, and how it is found.

A package registers an `Environment` under the entry point group `dirl.environments`:

    [project.entry-points."dirl.environments"]
    my-tasks = "my_package.environment:ENVIRONMENT"

Its data sets are then training and validation files by name: `my-tasks:sorting?size=500`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, Final, Protocol

from services.common.environments.names import EnvironmentName

GROUP: Final = "dirl.environments"
_BUILT_IN: Final = {
    "reasoning-gym": "services.common.environments.reasoning_gym_environment:ENVIRONMENT"
}


@dataclass(frozen=True)
class Task:
    """One row of a data set."""

    prompt: str
    answer: str | None = None
    """A reference answer, where there is one; also the completion for supervised fine-tuning."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further fields, which other graders may read; JSON."""


class DataSet(Protocol):
    """A data set with fixed parameters."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Task: ...

    def score(self, index: int, task: Task, answer: str) -> float:
        """Return the score of an answer, untrusted text, in the sandbox.

        `task` is what `self[index]` was when the rows were made, in another process, as JSON has it.
        """


class Environment(Protocol):
    """The data sets of a package."""

    @property
    def data_sets(self) -> Collection[str]:
        """Names of the data sets."""

    def open(
        self, data_set: str, *, seed: int, size: int, parameters: Mapping[str, Any]
    ) -> DataSet:
        """Make a data set; raises ValueError for parameters that it does not have, or bad values."""


def find_environments() -> dict[str, str]:
    """Return `module:attribute` of every environment by name, the built-in ones first."""
    found = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    return {**found, **_BUILT_IN}


def load_environment(reference: str) -> Environment:
    """Load the environment at `module:attribute`; raises what its import raises."""
    module, _, attribute = reference.partition(":")
    environment: Environment = attrgetter(attribute)(import_module(module))
    return environment


def open_data_set(name: EnvironmentName) -> DataSet:
    """Open a data set by name; raises ValueError that says what is wrong and what there is."""
    known = find_environments()
    if name.environment not in known:
        raise ValueError(
            f"there is no environment {name.environment!r}; there are {', '.join(sorted(known))}"
        )
    try:
        environment = load_environment(known[name.environment])
    except ImportError as error:
        raise ValueError(
            f"the environment {name.environment!r} cannot be loaded: {error}; install its package, for instance "
            f"pip install 'dirl-platform[environments]'"
        ) from None
    if name.data_set not in environment.data_sets:
        raise ValueError(
            f"{name.environment!r} has no data set {name.data_set!r}; it has {', '.join(sorted(environment.data_sets))}"
        )
    return environment.open(
        name.data_set, seed=name.seed, size=name.size, parameters=name.parameters
    )
