r"""Expressions that say where a part of a row is: the language of `data.fields` and of the layouts.

| written | is |
| --- | --- |
| `query`, `reward_model.ground_truth`, `turns.0.content` | the value at a path through objects and lists |
| `{instruction}\n\n{input?}` | a text with the values at these paths; braces of the text are doubled |
| `'text'`, a number | the value itself |

A path of a template that ends with `?` may be missing; its text is then empty.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any, Final

from services.common.data.row_errors import shorten
from services.common.templates import MissingFieldError, look_up

_OPTIONAL: Final = "?"
_QUOTE: Final = "'"


@dataclass(frozen=True)
class Source:
    """Where rows have a part: a path, a template or a constant text."""

    expression: str

    def __post_init__(self) -> None:
        """Raise ValueError for an expression that cannot be parsed."""
        _ = self._pieces

    @property
    def is_constant(self) -> bool:
        """Whether the expression is a text in quotes."""
        quoted = self.expression
        return len(quoted) > 1 and quoted.startswith(_QUOTE) and quoted.endswith(_QUOTE)

    @property
    def is_template(self) -> bool:
        """Whether the expression is a template, not a path."""
        return "{" in self.expression or "}" in self.expression

    @cached_property
    def required(self) -> frozenset[str]:
        """Paths that a row must have."""
        return frozenset(path for _, path in self._pieces if path and not path.endswith(_OPTIONAL))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Fields of the row that are read, optional ones included."""
        paths = (path.removesuffix(_OPTIONAL).split(".")[0] for _, path in self._pieces if path)
        return tuple(dict.fromkeys(paths))

    @cached_property
    def label(self) -> str:
        """The fields that a row must have, as errors name them."""
        return "/".join(path for _, path in self._pieces if path in self.required)

    def read(self, record: Mapping[str, Any]) -> Any:
        """Return the value of a path, or the text of a template without surrounding white space.

        Raises MissingFieldError.
        """
        if self.is_constant:
            return self.expression[1:-1]
        if not self.is_template:
            return find_value(record, self.expression)
        return "".join(
            literal + (_render(record, path) if path else "") for literal, path in self._pieces
        ).strip()

    @cached_property
    def _pieces(self) -> tuple[tuple[str, str], ...]:
        """(text, path after it) of each piece; the path of the last one may be empty."""
        if self.is_constant:
            return ()
        if not self.is_template:
            return (("", self.expression),)
        pieces = []
        for literal, path, format_spec, conversion in Formatter().parse(self.expression):
            if path is not None and (not path.strip(_OPTIONAL) or format_spec or conversion):
                raise ValueError(
                    f"{shorten(self.expression)}: '{{{path}}}' is not {{FIELD}} or {{FIELD?}}; double the braces"
                    " that are text"
                )
            pieces.append((literal, path or ""))
        return tuple(pieces)


def find_value(record: Mapping[str, Any], path: str) -> Any:
    """Return the value of the field that is named like the path, else the value at the path.

    Raises MissingFieldError, also for null.
    """
    value = record[path] if path in record else look_up(record, path)
    if value is None:
        raise MissingFieldError(path)
    return value


def _render(record: Mapping[str, Any], path: str) -> str:
    try:
        value = find_value(record, path.removesuffix(_OPTIONAL))
    except MissingFieldError:
        if path.endswith(_OPTIONAL):
            return ""
        raise
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
