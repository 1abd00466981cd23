r"""Find the prompt, the reference answer and the completion in the fields of a data row: as `data.fields`
says, else by the layouts of well-known data sets.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, TypeVar

from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.common.data.boxed import innermost, last_box
from services.common.data.choices import append_choices, read_choices, to_label
from services.common.data.conversations import (
    Message,
    is_conversation,
    parse_list,
    read_conversation,
    read_weight,
    split_completion,
)
from services.common.data.layouts import (
    COMPLETIONS,
    CONVERSATIONS,
    PROMPT_TURNS,
    PROMPTS,
    REFERENCES,
    SYSTEMS,
    Group,
)
from services.common.data.mapping import Source, find_value
from services.common.data.row_errors import FieldError, LayoutError, shorten
from services.common.linear_patterns import LinearPattern
from services.common.templates import MissingFieldError

T = TypeVar("T", str, Message)
Part = Source | float
"""Where a part of a row is, or its constant value."""
ANSWER_TYPE_FIELD: Final = "gold_type"
"""Not `answer_type`, with which OlympiadBench and WebInstruct name types of their own."""
ID_FIELDS: Final = ("id", "unique_id", "ID")
NO_MAPPING: Final[Mapping[str, Part]] = {}
_GSM8K_ANSWER: Final = LinearPattern(r"(?:^|\n)####[ \t]*([^\n]*?)\s*$")
_MAX_ANSWER_CHARS: Final = 80


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Content of a row without its id."""

    messages: tuple[Message, ...]
    answer: str | None
    completion: Message | None
    used: tuple[str, ...]
    """Names of the fields read."""


def read_fields(record: Mapping[str, Any], mapping: Mapping[str, Part] = NO_MAPPING) -> Fields:
    """Read prompt, reference answer and completion of a JSON object; raises FieldError.

    `mapping` has the Source or the constant of each part that `data.fields` names. Empty reference
    answers and completions count as missing.
    """
    return _RowReader(record, mapping).read()


def render_reference_answer(value: Any) -> str:
    """Convert a reference answer to text; raises FieldError.

    Whole floats lose their `.0`, lists are joined by commas, also those that are the text of JSON.
    """
    if isinstance(value, str):
        parts = parse_list(value)
        # `["12"]` is a list of answers; `[1, 2]` is an interval.
        is_list = isinstance(parts, list) and parts and all(isinstance(part, str) for part in parts)
        return render_reference_answer(parts) if is_list else value.strip()
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


class _RowReader:
    """One row being read."""

    def __init__(self, record: Mapping[str, Any], mapping: Mapping[str, Part]) -> None:
        self._record = record
        self._given = {part: _read_mapped(record, part, source) for part, source in mapping.items()}
        taken = {
            column.lower()
            for source in mapping.values()
            if isinstance(source, Source)
            for column in source.columns
        }
        # Fields that the layouts may read, by their names in lower case; those in lower case go first.
        self._names: dict[str, str] = {}
        for name in sorted(record, key=str.islower):
            if record[name] is not None and name.lower() not in taken:
                self._names[name.lower()] = name
        self._columns = {lower: record[name] for lower, name in self._names.items()}
        if not isinstance(self._columns.get("context"), str):
            self._columns.pop("context", None)
        self._present = frozenset(self._columns)
        self._choices = {} if "prompt" in mapping else read_choices(self._columns)
        self._used: dict[str, None] = {}

    def read(self) -> Fields:
        """Read all parts."""
        messages, completion, origin = self._read_prompt()
        reference = self._read_reference()
        worked = None if reference is None else _GSM8K_ANSWER.search(reference)
        final = reference if worked is None else worked.group(1)
        completion = self._read_completion(completion, origin, final)
        if completion is None and worked is not None and reference is not None:
            text = f"{reference[: worked.start()]}\n\\boxed{{{final}}}".lstrip()
            completion = Message("assistant", text)
        if not final and "reference" not in self._given:
            final = self._read_answer_of_solution(completion)
        if not messages[-1].content.strip():
            raise FieldError("the prompt is empty")
        if completion is not None and not completion.target.strip():
            completion = None
        if "weight" in self._given:
            factor = read_weight(self._given["weight"], "data.fields.weight")
            messages = tuple(replace(turn, weight=turn.weight * factor) for turn in messages)
            completion = completion and replace(completion, weight=completion.weight * factor)
        return Fields(
            messages=messages,
            answer=final if final and final.strip() else None,
            completion=completion,
            used=tuple(self._used),
        )

    def _read_prompt(self) -> tuple[tuple[Message, ...], Message | None, str]:
        """Return the turns before the response, the response if a conversation has it, and the field of
        the conversation.
        """
        if "messages" in self._given:
            turns, name = read_conversation(self._given["messages"], "data.fields.messages"), ""
        elif is_conversation(self._given.get("prompt")):
            turns, name = read_conversation(self._given["prompt"], "data.fields.prompt"), "prompt"
        elif "prompt" in self._given:
            turns, name = (
                (Message("user", self._to_text("prompt", self._given["prompt"])),),
                "prompt",
            )
        else:
            turns, name = self._recognise_prompt()
        turns = self._add_system(turns)
        prompt, completion = split_completion(turns, name or "messages")
        if name in PROMPT_TURNS:
            # Its turns lead to the response, which a list of turns may end with.
            prompt = tuple(
                replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in prompt
            )
        return prompt, completion, name

    def _recognise_prompt(self) -> tuple[tuple[Message, ...], str]:
        """Return the turns, and the field of the conversation if there is one."""
        conversations = {
            name: read_conversation(self._columns[name], self._names[name])
            for name in CONVERSATIONS
            if is_conversation(self._columns.get(name))
        }
        groups = (self._fitting(group) for group in PROMPTS)
        texts = next(filter(None, groups), ())
        if conversations:
            name, turns = max(conversations.items(), key=lambda item: len(item[1]))
            self._require_one_prompt(name, turns, conversations, PROMPTS[0])
            self._use(name)
            return turns, name
        if not texts:
            found = ", ".join(self._record) or "none"
            raise LayoutError(
                "has no prompt that is recognised; say which field it is, e.g. data.fields = "
                f'{{prompt = "FIELD"}}; the fields of the row are {shorten(found)}'
            )
        text = self._agree("prompt", texts, self._to_text, _squeeze)
        return (*self._read_history(), Message("user", self._complete_text(text))), ""

    def _require_one_prompt(
        self,
        name: str,
        turns: Sequence[Message],
        conversations: Mapping[str, Sequence[Message]],
        group: Group,
    ) -> None:
        """Raise LayoutError unless all prompts of the row are those of one conversation."""
        others = [
            other
            for other, shorter in conversations.items()
            if not all(
                turn.role == same.role and _is_same_text(turn.content, same.content)
                for turn, same in zip(shorter, turns, strict=False)
            )
        ]
        asked = [_squeeze(turn.content) for turn in turns if turn.role == "user"]
        for source in self._fitting(group):
            text = _squeeze(self._to_text(source.expression, source.read(self._columns)))
            if not any(text in content for content in asked):
                others.append(source.label)
        if others:
            self._refuse_conflict("prompt", [name, *others], "messages")

    def _complete_text(self, text: str) -> str:
        starter = self._columns.get("starter_code")
        if isinstance(starter, str) and starter.strip():
            self._use("starter_code")
            text = f"{text}\n\nComplete this code:\n```python\n{starter.strip()}\n```"
        return append_choices(text, self._choices)

    def _read_history(self) -> tuple[Message, ...]:
        """Turns before an instruction, as LLaMA-Factory writes them: pairs of question and response."""
        history = parse_list(self._columns.get("history"))
        pairs = history if isinstance(history, list) else []
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return ()
        return tuple(
            Message(role, self._to_text("history", text))
            for pair in pairs
            for role, text in zip(("user", "assistant"), pair, strict=True)
        )

    def _add_system(self, turns: tuple[Message, ...]) -> tuple[Message, ...]:
        system = self._given.get("system")
        if system is None and (found := self._fitting(SYSTEMS)):
            system = self._columns[found[0].expression]
        if not isinstance(system, str) or not system.strip():
            return turns
        has_own = turns and turns[0].role == "system"
        return turns if has_own else (Message("system", system), *turns)

    def _read_completion(
        self, spoken: Message | None, conversation: str, final: str | None
    ) -> Message | None:
        """Return the response to train on; `spoken` is the one of a conversation."""
        if "completion" in self._given:
            return _to_message("data.fields.completion", self._given["completion"])
        targets = self._fitting(COMPLETIONS[0])
        if spoken is not None:
            for source in targets:
                other = _to_message(source.expression, source.read(self._columns))
                if not _is_same_text(other.content, spoken.content):
                    self._refuse_conflict("completion", [conversation, source.expression])
            return spoken
        if targets:
            return self._agree("completion", targets, _to_message, _squeeze_message)
        solutions = [
            source
            for source in self._fitting(COMPLETIONS[1])
            if final is None or not _is_same_answer(source.read(self._columns), final)
        ]
        if not solutions:
            return None
        return self._agree("completion", solutions, _to_message, _squeeze_message)

    def _read_reference(self) -> str | None:
        if "reference" in self._given:
            return render_reference_answer(self._given["reference"])
        # An object is for graders: it cannot be compared with an answer.
        fitting = [
            source
            for source in self._fitting(REFERENCES)
            if not (isinstance(value := source.read(self._columns), str) and not value.strip())
        ]
        if not fitting:
            return None

        def render(_: str, value: Any) -> str:
            return render_reference_answer(to_label(value, self._choices))

        return self._agree("reference", fitting, render, _normalise_answer)

    def _read_answer_of_solution(self, completion: Message | None) -> str | None:
        """Return the answer of a worked solution: in its last box, or after `####`."""
        texts = []
        for source in self._fitting(COMPLETIONS[1]):
            solution = _to_message(source.label, source.read(self._columns)).content
            texts.append(solution)
            if not _looks_like_answer(solution):
                continue
            if completion is not None and not _is_same_answer(completion.content, solution):
                return solution
            name = self._names[source.label]
            raise LayoutError(
                f"the field {name} is {shorten(solution)}, which may be the reference answer or a completion; "
                f'say which: data.fields = {{reference = "{name}"}} or data.fields = {{completion = "{name}"}}'
            )
        if completion is not None:
            texts.append(completion.content)
        for text in texts:
            box = last_box(text)
            if box is not None and box.closed:
                return innermost(box.content)
            if marked := _GSM8K_ANSWER.search(text):
                return marked.group(1)
        return None

    def _agree(
        self,
        part: str,
        fitting: Sequence[Source],
        convert: Callable[[str, Any], T],
        normalise: Callable[[T], str],
    ) -> T:
        """Return what the sources have in common; raises LayoutError when they differ."""
        values = [convert(source.expression, source.read(self._columns)) for source in fitting]
        if len(set(values)) > 1 and len({normalise(value) for value in values}) > 1:
            self._refuse_conflict(part, [source.label for source in fitting])
        for source in fitting:
            for column in source.columns:
                self._use(column)
        return values[0]

    def _refuse_conflict(
        self, part: str, expressions: Iterable[str], key_of_list: str | None = None
    ) -> NoReturn:
        written = [self._names.get(expression, expression) for expression in expressions]
        what = {"prompt": "prompts", "completion": "completions", "reference": "reference answers"}
        key = key_of_list or part
        raise LayoutError(
            f"the fields {' and '.join(written)} have different {what[part]}; say which one counts: data.fields = "
            f"{{{key} = {json.dumps(written[0])}}} or data.fields = {{{part} = {json.dumps(written[1])}}}"
        )

    def _fitting(self, group: Group) -> list[Source]:
        """Return the sources of a group that the row has."""
        return [
            source
            for source in group.find_present(self._present)
            if all(_has_value(self._columns, path) for path in source.required)
        ]

    def _use(self, column: str) -> None:
        if column in self._columns:
            self._used[self._names[column]] = None

    @staticmethod
    def _to_text(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise FieldError(f"the field {name} is {type(value).__name__}; it must be a string")
        return value


def _read_mapped(record: Mapping[str, Any], part: str, source: Part) -> Any:
    if not isinstance(source, Source):
        return source
    try:
        return source.read(record)
    except MissingFieldError as error:
        fields = shorten(", ".join(record))
        raise FieldError(
            f"has no field {str(error)!r}, which data.fields.{part} reads; its fields are {fields}. A field of a "
            "template that rows may lack is written {FIELD?}, a constant text in quotes ('…')"
        ) from None


def _has_value(columns: Mapping[str, Any], path: str) -> bool:
    """Whether a row has a value at the path that is neither a list of turns nor an object with parts."""
    try:
        value = find_value(columns, path)
    except MissingFieldError:
        return False
    if isinstance(value, dict):
        return False
    return path not in CONVERSATIONS or not is_conversation(value)


def _to_message(name: str, value: Any) -> Message:
    """Return a completion: a text, the first of several, or one assistant message."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = value[0]  # OlympiadBench lists alternative solutions
    if isinstance(value, str) and not is_conversation(value):
        return Message("assistant", value)
    turns = read_conversation(value, name) if is_conversation(value) else ()
    if len(turns) != 1 or turns[0].role != "assistant":
        raise FieldError(
            f"the field {name} is {type(value).__name__}; it must be a string or one assistant message"
        )
    return turns[0]


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _is_same_text(text: str, other: str) -> bool:
    return text == other or _squeeze(text) == _squeeze(other)


def _squeeze_message(message: Message) -> str:
    return _squeeze(message.target)


def _normalise_answer(text: str) -> str:
    """Return an answer as it is compared with others of the row: without markup of its own."""
    marked = _GSM8K_ANSWER.search(text)
    text = marked.group(1) if marked else text
    box = last_box(text)
    if box is not None and box.closed and not text[: box.start].strip(" $"):
        text = innermost(box.content)
    return (
        "".join(text.replace("$", "").replace("\\dfrac", "\\frac").split()).rstrip(".").casefold()
    )


def _is_same_answer(value: Any, reference: str) -> bool:
    return isinstance(value, str) and _normalise_answer(value) == _normalise_answer(reference)


def _looks_like_answer(text: str) -> bool:
    """Whether a text without a box is a bare answer and not a worked solution."""
    stripped = text.strip()
    if not stripped or "\n" in stripped or len(stripped) > _MAX_ANSWER_CHARS:
        return False
    return last_box(stripped) is None and infer_answer_type(stripped) is not AnswerType.TEXT
