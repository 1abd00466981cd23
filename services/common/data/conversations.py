"""Conversations as data sets write them: turns of roles and contents.

| of | turn |
| --- | --- |
| OpenAI, TRL, verl | `role`, `content` (text or a list of text parts), `weight`, `reasoning_content`, `name` |
| ShareGPT, SlimOrca, OpenThoughts | `from`, `value`, `weight` |
| Capybara | `input`, `output` |
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.common.data.row_errors import FieldError, shorten

ROLES: Final = ("system", "user", "assistant")
_OTHER_ROLES: Final = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
_TOOL_ROLES: Final = frozenset(
    {"tool", "function", "ipython", "observation", "function_call", "tool_call", "tool_response"}
)
_TOOL_FIELDS: Final = ("tool_calls", "function_call", "tool_call_id")
_REASONING_FIELDS: Final = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
THINK: Final = "<think>"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str
    reasoning: str = ""
    """Text before the content, which later turns do not see."""
    weight: float = 1.0
    """Weight of the turn in the loss; of assistant turns."""

    @property
    def target(self) -> str:
        """What the model learns to write: the reasoning in think tags, then the content."""
        if not self.reasoning:
            return self.content
        return f"{THINK}\n{self.reasoning.strip()}\n</think>\n\n{self.content}"


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of objects, perhaps as the text of a JSON array."""
    turns = parse_list(value)
    is_list = isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)
    return is_list and (bool(turns) or turns is value)


def parse_list(value: Any) -> Any:
    """Return the list that a text is the JSON of; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def read_conversation(value: Any, name: str) -> tuple[Message, ...]:
    """Read the turns of the field `name`; raises FieldError."""
    turns = parse_list(value)
    if not isinstance(turns, list):
        raise FieldError(f"the field {name} is {shorten(value)}; it must be a list of turns")
    return tuple(
        message
        for place, turn in enumerate(turns)
        for message in _read_turn(turn, f"{name}[{place}]")
    )


def split_completion(
    messages: Sequence[Message], name: str
) -> tuple[tuple[Message, ...], Message | None]:
    """Split a last assistant turn off a conversation; raises FieldError unless a user turn is before it."""
    prompt, completion = tuple(messages), None
    if prompt and prompt[-1].role == "assistant":
        prompt, completion = prompt[:-1], prompt[-1]
    if not prompt or prompt[-1].role != "user":
        raise FieldError(f"{name} has no user turn before the response; a prompt must end with one")
    return prompt, completion


def _read_turn(turn: Any, place: str) -> Iterator[Message]:
    if not isinstance(turn, dict):
        raise FieldError(f"{place} is {shorten(turn)}; it must be an object with role and content")
    if "input" in turn and "output" in turn:
        yield Message("user", _read_content(turn["input"], f"{place}.input"))
        yield Message("assistant", _read_content(turn["output"], f"{place}.output"))
        return
    role_field, content_field = ("from", "value") if "from" in turn else ("role", "content")
    if role_field not in turn:
        raise FieldError(f"{place} has no role; it must be an object with role and content")
    role = _read_role(turn, role_field, place)
    content = turn.get(content_field)
    reasoning = next((turn[name] for name in _REASONING_FIELDS if turn.get(name)), "")
    if content is None and reasoning:
        content = ""
    yield Message(
        role,
        _read_content(content, f"{place}.{content_field}"),
        _read_content(reasoning, f"{place}.reasoning_content") if role == "assistant" else "",
        read_weight(turn.get("weight"), f"{place}.weight"),
    )


def _read_role(turn: Mapping[str, Any], field: str, place: str) -> str:
    role = turn[field]
    tool = next((name for name in _TOOL_FIELDS if turn.get(name)), None)
    if tool is not None or (isinstance(role, str) and role.lower() in _TOOL_ROLES):
        what = f"has {tool}" if tool is not None else f"has the role {role!r}"
        raise FieldError(
            f"{place} {what}; calls of tools are not supported, so remove the row or its tool turns"
        )
    known = role.lower() if isinstance(role, str) else role
    if known in ROLES:
        return str(known)
    if isinstance(known, str) and known in _OTHER_ROLES:
        return _OTHER_ROLES[known]
    raise FieldError(f"{place}.{field} is {role!r}; the roles are {', '.join(ROLES)}")


def _read_content(content: Any, place: str) -> str:
    """Return a text, or text parts one after the other."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise FieldError(
            f"{place} is {type(content).__name__}; it must be a string or a list of text parts"
        )
    return "".join(_read_part(part, f"{place}[{index}]") for index, part in enumerate(content))


def _read_part(part: Any, place: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
        raise FieldError(f"{place} is {shorten(part)}; the models read text parts only")
    return str(part["text"])


def read_weight(value: Any, place: str) -> float:
    """Return a weight of the loss, 1 for None; raises FieldError."""
    if value is None:
        return 1.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise FieldError(f"{place} is {shorten(value)}; it must be a number from 0")
    return float(value)
