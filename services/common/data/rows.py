"""Read and validate the rows of a data file.

No row is skipped: a file with an invalid row is rejected with the position of every problem.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.common.data.conversations import Message
from services.common.data.fields import ANSWER_TYPE_FIELD, ID_FIELDS, Fields, read_fields
from services.common.data.reading import AS_IT_IS, Reading
from services.common.data.records import Numbered, iter_records
from services.common.data.row_errors import FieldError, LayoutError, shorten
from services.common.data.row_filter import RowFilter
from services.common.errors import Problem, ProblemsError
from services.common.templates import MissingFieldError, look_up

Needs = Literal["sft", "rl", "eval"]

MAX_PROBLEMS_SHOWN: Final = 20
_MAX_HINTED: Final = 3
_NO_FIELDS: Final[Mapping[str, str]] = {}

__all__ = ["FileReport", "Message", "Needs", "Row", "check_file", "iter_rows", "read_rows"]


@dataclass(frozen=True)
class LayoutProblem(Problem):
    """A row that needs `data.fields` to be read."""


@dataclass(frozen=True)
class Target:
    """One assistant turn to train on."""

    messages: tuple[Message, ...]
    """Turns before it."""
    text: str
    weight: float
    """Weight of the turn in the loss, above 0."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt, with a reference answer, a completion, both or neither."""

    row_id: str
    """Id of the row, else the SHA-256 of its canonical JSON (equal rows share it)."""
    number: int
    """Line or row of the file, 1-based; through all shards."""
    place: str
    """Position as errors name it."""
    messages: tuple[Message, ...]
    """Prompt turns; the last one is a user turn."""
    answer: str | None
    """Reference answer."""
    answer_type: AnswerType | None
    """Field `gold_type` of the row, else inferred from the reference answer; None without one."""
    completion: str | None
    """Response to the messages, with its reasoning in think tags."""
    completion_weight: float
    """Weight of the completion in the loss."""
    data_source: str
    metadata: dict[str, Any]
    """Field `metadata` of the row and all fields that were not read."""
    record: dict[str, Any]
    """The row as the file has it."""
    fields: tuple[str, ...] = ()
    """Fields that prompt, completion and reference answer were read from."""

    @property
    def item(self) -> dict[str, Any]:
        """The row as graders see it: every field of the file, `messages` (the prompt turns) and
        `reference_answer`, unless the file has a field of that name.
        """
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        derived = {} if self.answer is None else {"reference_answer": self.answer}
        return {**derived, **self.record, "messages": messages}

    @property
    def targets(self) -> list[Target]:
        """Every assistant turn that supervised fine-tuning trains, with the turns before it."""
        found = [
            Target(self.messages[:index], turn.target, turn.weight)
            for index, turn in enumerate(self.messages)
            if turn.role == "assistant"
            and turn.weight > 0
            and turn.target.strip()
            and any(earlier.role == "user" for earlier in self.messages[:index])
        ]
        if self.completion is not None and self.completion_weight > 0:
            found.append(Target(self.messages, self.completion, self.completion_weight))
        return found

    @property
    def prompt_chars(self) -> int:
        """Characters of all prompt turns."""
        return sum(len(message.content) for message in self.messages)


@dataclass(kw_only=True)
class FileReport:
    """Content and problems of a file."""

    path: Path
    rows: int = 0
    """Valid rows."""
    num_layout_problems: int = 0
    """Of the problems, those that `data.fields` of a job spec can settle."""
    sft_rows: int = 0
    """Rows with a completion."""
    sft_examples: int = 0
    """Assistant turns that supervised fine-tuning trains, in all rows."""
    rl_rows: int = 0
    """Rows with a reference answer, which graders of correctness need."""
    format: str = ""
    """Names of the fields read, e.g. `question/answer`; `mixed` if rows differ."""
    longest_prompt_chars: int = 0
    longest_completion_chars: int = 0
    problems: list[Problem] = field(default_factory=list)
    """The first MAX_PROBLEMS_SHOWN."""
    num_problems: int = 0

    def usable_for(self, needs: Needs) -> bool:
        """Whether read_rows(path, needs) succeeds, with graders that read no field of a row."""
        count = self.sft_rows if needs == "sft" else self.rows
        return self.num_problems == 0 and 0 < count == self.rows


def read_rows(
    path: Path,
    needs: Needs,
    fields: Mapping[str, str] = _NO_FIELDS,
    checks: Sequence[Callable[[Mapping[str, Any]], str]] = (),
    reading: Reading = AS_IT_IS,
) -> Iterator[Row]:
    """Read the rows one after the other. Each must have a prompt, a completion (`sft`), and what graders
    read (`rl`, `eval`): `fields` has the name of a grader by the dotted path of a field, and `checks`
    return what is wrong with the row as graders see it.

    Raises ProblemsError("dataset_invalid") with positions and reasons, after the last row, if any row is
    invalid.
    """
    problems: list[Problem] = []
    num_problems = 0
    for item in _scan(path, reading):
        if isinstance(item, Row):
            problem = _find_problem(item, needs, fields, checks)
            if problem is None:
                yield item
                continue
        else:
            problem = item
        num_problems += 1
        problems += [problem] * (len(problems) < MAX_PROBLEMS_SHOWN)
    if problems:
        what = f"The data file {path} cannot be used for {needs}"
        raise ProblemsError("dataset_invalid", what, problems, total=num_problems)


def _find_problem(
    row: Row,
    needs: Needs,
    fields: Mapping[str, str],
    checks: Sequence[Callable[[Mapping[str, Any]], str]],
) -> Problem | None:
    if needs == "sft":
        return None if row.targets else Problem(row.place, _describe_missing_completion(row))
    if (missing := _find_missing_field(row, fields)) is not None:
        return Problem(row.place, _describe_missing(row, missing, fields[missing]))
    wrong = next(filter(None, (check(row.item) for check in checks)), "")
    return Problem(row.place, wrong) if wrong else None


def _find_missing_field(row: Row, fields: Iterable[str]) -> str | None:
    item = row.item
    for path in fields:
        try:
            look_up(item, path)
        except MissingFieldError:
            return path
    return None


def _describe_missing_completion(row: Row) -> str:
    if row.completion is not None or any(turn.role == "assistant" for turn in row.messages):
        return "has no assistant turn with a weight above 0; sft needs one"
    texts = [
        name
        for name, value in row.metadata.items()
        if isinstance(value, str) and value.strip() and name in row.record
    ]
    # The longest one is most likely a solution.
    texts.sort(key=lambda name: -len(row.record[name]))
    return (
        "has no completion; sft needs `completion`, `solution` or a last assistant turn"
        f"{_hint_mapping('completion', texts)}"
    )


def _hint_mapping(part: str, names: Sequence[str]) -> str:
    options = " or ".join(
        f"data.fields = {{{part} = {json.dumps(name)}}}" for name in names[:_MAX_HINTED]
    )
    return f", or, if it is one of these, {options}" if options else ""


def _describe_missing(row: Row, path: str, grader: str) -> str:
    if path == "reference_answer":
        what = rf"has no reference answer, which the grader {grader!r} compares with"
        short = [
            name
            for name, value in row.metadata.items()
            if isinstance(value, str | int | float)
            and "answer" in name.lower()
            and name in row.record
        ]
        return rf"{what}; add `answer`, or a solution with \boxed{{}}{_hint_mapping('reference', short)}"
    return f"has no field {path!r}, which the grader {grader!r} reads; add it, or change the grader"


def iter_rows(path: Path, reading: Reading = AS_IT_IS) -> Iterator[Row]:
    """Yield the valid rows in order; for files that were validated."""
    return (item for item in _scan(path, reading) if isinstance(item, Row))


def check_file(path: Path, reading: Reading = AS_IT_IS) -> FileReport:
    """Validate the whole file; raises ProblemsError("dataset_invalid") only if it cannot be opened."""
    report = FileReport(path=path)
    for item in _scan(path, reading):
        if isinstance(item, Problem):
            report.num_problems += 1
            report.num_layout_problems += isinstance(item, LayoutProblem)
            report.problems += [item] * (len(report.problems) < MAX_PROBLEMS_SHOWN)
            continue
        targets = item.targets
        layout = "/".join(item.fields)
        report.rows += 1
        report.sft_rows += bool(targets)
        report.sft_examples += len(targets)
        report.rl_rows += item.answer is not None
        report.format = layout if report.format in ("", layout) else "mixed"
        report.longest_prompt_chars = max(report.longest_prompt_chars, item.prompt_chars)
        report.longest_completion_chars = max(
            report.longest_completion_chars, len(item.completion or "")
        )
    return report


def _scan(path: Path, reading: Reading) -> Iterator[Row | Problem]:
    """Yield each row that is taken, or its problem."""
    condition = None if reading.filter is None else RowFilter(reading.filter)
    num_records = num_read = num_taken = 0
    try:
        for numbered in iter_records(path):
            num_records += 1
            item = _read_record(numbered, reading, condition)
            if isinstance(item, Row):
                num_read += 1
                if reading.split is not None and not reading.split.takes(item.row_id):
                    item = None
            if item is not None:
                num_taken += 1
                yield item
            if num_read == reading.max_rows:
                break
    except OSError as error:
        reason = f"{error.strerror or error}; give the path of a readable file, directory or glob"
        raise ProblemsError(
            "dataset_invalid", "The data file cannot be opened", [Problem(str(path), reason)]
        ) from None
    if num_records == 0:
        yield Problem(str(path), "the file has no rows; write one JSON object per line")
    elif condition is not None and condition.missing and num_read != reading.max_rows:
        names = ", ".join(sorted(condition.missing))
        yield Problem(
            str(path), f"data.filter {reading.filter!r} reads {names}, which none of the rows has"
        )
    elif num_taken == 0:
        left = f"data.filter {reading.filter!r}" if num_read == 0 else "data.split_validation"
        yield Problem(str(path), f"{left} leaves none of the {num_records} rows")


def _read_record(
    numbered: Numbered, reading: Reading, condition: RowFilter | None
) -> Row | Problem | None:
    """Return the row, its problem, or None for one that the filter leaves out."""
    record = numbered.content
    try:
        if isinstance(record, FieldError):
            raise record
        if condition is not None and not condition.matches(record):
            return None
        return _make_row(numbered, record, read_fields(record, reading.fields))
    except LayoutError as error:
        return LayoutProblem(numbered.place, str(error))
    except FieldError as error:
        return Problem(numbered.place, str(error))


def _make_row(numbered: Numbered, record: dict[str, Any], fields: Fields) -> Row:
    own_id = next((name for name in ID_FIELDS if record.get(name) is not None), None)
    source = next(
        (name for name in ("data_source", "source") if isinstance(record.get(name), str)), None
    )
    # Anything else than an object is a field like others, such as LiveCodeBench's text for its grader.
    given = record.get("metadata")
    given = given if isinstance(given, dict) else None
    read = {
        *fields.used,
        own_id,
        source,
        *(["metadata"] if given is not None else []),
        *([ANSWER_TYPE_FIELD] if fields.answer is not None else []),
    }
    digest = _hash_record(record)
    rest = {name: value for name, value in record.items() if name not in read}
    return Row(
        row_id=digest if own_id is None else str(record[own_id]),
        number=numbered.number,
        place=numbered.place,
        messages=fields.messages,
        answer=fields.answer,
        answer_type=_read_answer_type(record, fields),
        completion=None if fields.completion is None else fields.completion.target,
        completion_weight=1.0 if fields.completion is None else fields.completion.weight,
        data_source="" if source is None else record[source],
        metadata={**rest, **(given or {})},
        record=record,
        fields=fields.used,
    )


def _hash_record(record: dict[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON, which depends neither on the order of the keys nor on the
    file format.
    """
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return hashlib.sha256(canonical.encode()).hexdigest()
    except UnicodeEncodeError:
        raise FieldError(
            "has an unpaired surrogate, which is not a character; remove the \\uD8xx escape"
        ) from None


def _read_answer_type(record: dict[str, Any], fields: Fields) -> AnswerType | None:
    if fields.answer is None:
        return None
    stated = record.get(ANSWER_TYPE_FIELD)
    if stated is None:
        return infer_answer_type(fields.answer)
    if stated not in list(AnswerType):
        raise FieldError(
            f"the field {ANSWER_TYPE_FIELD} is {shorten(stated)}; the types are {', '.join(AnswerType)}"
        )
    return AnswerType(stated)
