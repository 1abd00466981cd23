r"""Find the prompt, the reference answer and the completion in the fields of a data row.

Supported layouts: chat `messages`; `prompt` with `completion` and/or `answer` (TRL);
`question/answer` (GSM8K, with the reference answer after `####`); `question/ground_truth_answer`
(dLLM-RL); `problem/solution/answer` (MATH; without `answer`, the last `\boxed{}` of the
solution); `problem/expected_answer` (NeMo-Skills' AIME); `question/final_answer` (OlympiadBench, a
list); `reward_model.ground_truth` (verl); `Body/Question/Answer` (SVAMP); `question_content` and
`starter_code` (LiveCodeBench, APPS).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.common.data.boxed import innermost, last_box
from services.common.linear_patterns import LinearPattern

ROLES: Final = ("system", "user", "assistant")
PROMPT_FIELDS: Final = ("messages", "prompt", "question", "problem", "question_content", "Body")
REFERENCE_ANSWER_FIELDS: Final = (
    "answer",
    "ground_truth_answer",
    "expected_answer",
    "final_answer",
    "gold_answer",
    "ground_truth",
    "reference_answer",
    "Answer",
)
ANSWER_TYPE_FIELD: Final = "gold_type"
"""Not `answer_type`, with which OlympiadBench names types of its own."""
COMPLETION_FIELDS: Final = ("completion", "solution", "reference_solution")
ID_FIELDS: Final = ("id", "unique_id", "ID")
_GSM8K_ANSWER: Final = LinearPattern(r"(?:^|\n)####[ \t]*([^\n]*?)\s*$")


class FieldError(ValueError):
    """A row that cannot be read; the message says why and how to fix it."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Content of a row without its id."""

    messages: tuple[Message, ...]
    answer: str | None
    completion: str | None
    used: tuple[str, ...]
    """Names of the fields read."""


def read_fields(record: Mapping[str, Any]) -> Fields:
    """Read prompt, reference answer and completion of a JSON object; raises FieldError.

    Empty reference answers and completions count as missing.
    """
    messages, completion, prompt_used = _read_prompt(record)
    reference_answer, reference_used = _read_reference_answer(record)
    if completion is None:
        completion, completion_used = _read_completion(record)
    else:
        completion_used = ()
    if (
        reference_answer is not None
        and completion is None
        and (split := _GSM8K_ANSWER.search(reference_answer))
    ):
        completion = f"{reference_answer[: split.start()]}\n\\boxed{{{split.group(1)}}}".lstrip()
        reference_answer = split.group(1)
    if not reference_answer and completion is not None:
        box = last_box(completion)
        reference_answer = innermost(box.content) if box is not None and box.closed else None
    if not messages[-1].content.strip():
        raise FieldError("the prompt is empty")
    used = tuple(dict.fromkeys((*prompt_used, *reference_used, *completion_used)))
    return Fields(
        messages=messages,
        answer=_none_if_blank(reference_answer),
        completion=_none_if_blank(completion),
        used=used,
    )


def render_reference_answer(value: Any) -> str:
    """Convert a reference answer to text; raises FieldError.

    Whole floats lose their `.0`, lists are joined by commas.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and value:
        return ", ".join(render_reference_answer(part).replace("$", "").strip() for part in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise FieldError(f"the reference answer is {value}, which is not a number")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise FieldError(
        f"the reference answer is {value!r}; it must be a string, a number or a list of these"
    )


def _read_prompt(
    record: Mapping[str, Any],
) -> tuple[tuple[Message, ...], str | None, tuple[str, ...]]:
    """Return prompt turns, the completion if the conversation has it, and the fields read."""
    if "Body" in record and "Question" in record:
        text = f"{_read_text(record, 'Body')} {_read_text(record, 'Question')}"
        return (Message("user", text),), None, ("Body", "Question")
    present = [name for name in PROMPT_FIELDS[:-1] if record.get(name) is not None]
    if not present:
        raise FieldError(
            f"has no prompt; one of the fields {', '.join(PROMPT_FIELDS[:-1])} is needed"
        )
    values = [record[name] for name in present]
    if any(value != values[0] for value in values[1:]):
        raise FieldError(
            f"the fields {' and '.join(present)} have different prompts; keep one of them"
        )
    if isinstance(values[0], list):
        return *_read_conversation(values[0], present[0]), tuple(present)
    text = _read_text(record, present[0])
    starter = record.get("starter_code")
    if isinstance(starter, str) and starter.strip():
        text = f"{text}\n\nComplete this code:\n```python\n{starter.strip()}\n```"
        return (Message("user", text),), None, (*present, "starter_code")
    context = record.get("context")
    if isinstance(context, str) and context.strip():
        return (Message("user", f"{context}\n{text}"),), None, (*present, "context")
    return (Message("user", text),), None, tuple(present)


def _read_text(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise FieldError(f"the field {name} is {type(value).__name__}; it must be a string")
    return value


def _read_conversation(turns: list[Any], name: str) -> tuple[tuple[Message, ...], str | None]:
    messages = tuple(_read_message(turn, f"{name}[{place}]") for place, turn in enumerate(turns))
    completion = None
    if messages and messages[-1].role == "assistant":
        messages, completion = messages[:-1], messages[-1].content
    if not messages or messages[-1].role != "user":
        raise FieldError(f"{name} has no user turn before the response; a prompt must end with one")
    return messages, completion


def _read_message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
        raise FieldError(f"{place} must be an object with exactly the fields role and content")
    if turn["role"] not in ROLES:
        raise FieldError(f"{place}.role is {turn['role']!r}; the roles are {', '.join(ROLES)}")
    if not isinstance(turn["content"], str):
        raise FieldError(
            f"{place}.content is {type(turn['content']).__name__}; it must be a string"
        )
    return Message(turn["role"], turn["content"])


def _read_reference_answer(record: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    # An object is for graders: it cannot be compared with an answer.
    reference_answers = {
        name: render_reference_answer(record[name])
        for name in REFERENCE_ANSWER_FIELDS
        if record.get(name) is not None and not isinstance(record[name], dict)
    }
    verl = record.get("reward_model")
    if isinstance(verl, dict) and verl.get("ground_truth") is not None:
        reference_answers["reward_model"] = render_reference_answer(verl["ground_truth"])
    if len(set(reference_answers.values())) > 1:
        raise FieldError(
            f"the fields {' and '.join(reference_answers)} have different reference answers; keep one of them"
        )
    return next(iter(reference_answers.values()), None), tuple(reference_answers)


def _read_completion(record: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    name = next((name for name in COMPLETION_FIELDS if record.get(name) is not None), None)
    if name is None:
        return None, ()
    value = record[name]
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = value[0]  # OlympiadBench lists alternative solutions
    elif isinstance(value, list) and len(value) == 1:
        value = _read_message(value[0], f"{name}[0]").content
    if not isinstance(value, str):
        raise FieldError(
            f"the field {name} is {type(value).__name__}; it must be a string or one assistant message"
        )
    return value, (name,)


def _none_if_blank(text: str | None) -> str | None:
    """Return None for blank text, with which public files mark missing values."""
    return text if text and text.strip() else None
