"""Templates of graders: `{{ item.field }}` and `{{ sample.output_text }}`, as in OpenAI's graders.

A variable is a path through objects and lists: `{{ item.tests.0.input }}`.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from services.common.linear_patterns import LinearPattern, Match

_VARIABLE: Final = LinearPattern(r"\{\{\s*([^{}]*?)\s*\}\}")


class MissingFieldError(Exception):
    """A path leads to no value; the message is the path."""


def find_variables(template: str) -> list[str]:
    """Return the paths that a template names, in order."""
    return _VARIABLE.findall(template)


def look_up(values: Any, path: str) -> Any:
    """Return the value at a dotted path through objects and lists; raises MissingFieldError."""
    found = values
    for part in path.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise MissingFieldError(path)
    return found


def fill_in(template: str, values: Mapping[str, Any]) -> str:
    """Replace the variables of a template; what is not text is written as JSON.

    Raises MissingFieldError.
    """

    def render(match: Match) -> str:
        value = look_up(values, match.group(1))
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _VARIABLE.sub(render, template)
