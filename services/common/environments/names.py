"""Names of environments in job specs: `reasoning-gym:chain_sum?seed=1&size=4096&max_terms=3`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

_NAME: Final = re.compile(
    r"(?P<environment>[a-z][a-z0-9_-]*):(?P<data_set>[A-Za-z0-9_.-]+)(?:\?(?P<query>.*))?"
)
DEFAULT_SIZE: Final = 1000
MAX_SIZE: Final = 100_000
_MAX_SEED: Final = 2**31


@dataclass(frozen=True)
class EnvironmentName:
    """A data set of an environment with everything that determines its rows."""

    environment: str
    data_set: str
    seed: int
    size: int
    """Rows."""
    parameters: Mapping[str, Any]
    """Parameters of the data set: difficulty and the like."""

    def __str__(self) -> str:
        """Canonical form: equal data sets have equal names."""
        query = {"seed": self.seed, "size": self.size, **dict(sorted(self.parameters.items()))}
        written = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in query.items()
        }
        return f"{self.environment}:{self.data_set}?{urlencode(written)}"


def is_environment_name(name: str) -> bool:
    """Whether a file of a job spec is a data set of an environment, and not a file."""
    return _NAME.fullmatch(name) is not None


def parse_environment_name(name: str) -> EnvironmentName:
    """Parse a name; raises ValueError that says what is wrong with it.

    Values are JSON where they can be (`true`, `3`, `[1, 2]`), else text.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not ENVIRONMENT:DATA_SET?parameter=value&…")
    try:
        pairs = parse_qsl(
            match["query"] or "", keep_blank_values=True, strict_parsing=bool(match["query"])
        )
    except ValueError as error:
        raise ValueError(f"the parameters of {name!r} cannot be read: {error}") from None
    parameters = {key: _parse_value(value) for key, value in pairs}
    if len(parameters) < len(pairs):
        raise ValueError(f"{name!r} has a parameter twice; keep one of them")
    return EnvironmentName(
        environment=match["environment"],
        data_set=match["data_set"],
        seed=_take_integer(parameters, "seed", 0, 0, _MAX_SEED - 1),
        size=_take_integer(parameters, "size", DEFAULT_SIZE, 1, MAX_SIZE),
        parameters=parameters,
    )


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _take_integer(parameters: dict[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = parameters.pop(key, default)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} is {value!r}; it must be an integer from {low} to {high}")
    return value
