"""Read and validate the rows of a data file (JSON Lines or Parquet).

No row is skipped: a file with an invalid row is rejected with the position of every problem.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.common.data.fields import (
    ANSWER_TYPE_FIELD,
    ID_FIELDS,
    FieldError,
    Fields,
    Message,
    read_fields,
)
from services.common.data.parquet import is_parquet, iter_parquet
from services.common.errors import Problem, ProblemsError
from services.common.templates import MissingFieldError, look_up

Needs = Literal["sft", "rl", "eval"]

MAX_PROBLEMS_SHOWN: Final = 20
_MAX_VALUE_SHOWN: Final = 80
_NO_FIELDS: Final[Mapping[str, str]] = {}
_MAGIC: Final = {b"\x1f\x8b": "a gzip archive", b"PK\x03\x04": "a zip archive"}

__all__ = ["FileReport", "Message", "Needs", "Row", "check_file", "iter_rows", "read_rows"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt, with a reference answer, a completion, both or neither."""

    row_id: str
    """Id of the row, else the SHA-256 of its canonical JSON (equal rows share it)."""
    number: int
    """Line or row of the file, 1-based."""
    messages: tuple[Message, ...]
    """Prompt turns; the last one is a user turn."""
    answer: str | None
    """Reference answer."""
    answer_type: AnswerType | None
    """Field `gold_type` of the row, else inferred from the reference answer; None without one."""
    completion: str | None
    """Target of supervised fine-tuning."""
    data_source: str
    metadata: dict[str, Any]
    """Field `metadata` of the row and all fields that were not read."""
    record: dict[str, Any]
    """The row as the file has it."""

    @property
    def item(self) -> dict[str, Any]:
        """The row as graders see it: every field of the file, `messages` (the prompt turns) and
        `reference_answer`, unless the file has a field of that name.
        """
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        derived = {} if self.answer is None else {"reference_answer": self.answer}
        return {**derived, **self.record, "messages": messages}

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
    sft_rows: int = 0
    """Rows with a completion."""
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
) -> list[Row]:
    """Read all rows. Each must have a prompt, a completion (`sft`), and what graders read (`rl`,
    `eval`): `fields` has the name of a grader by the dotted path of a field, and `checks` return what
    is wrong with the row as graders see it.

    Raises ProblemsError("dataset_invalid") with row numbers and reasons if a row is invalid.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    for item in _scan(path):
        if isinstance(item, Problem):
            problems.append(item)
        elif needs == "sft" and item.completion is None:
            reason = (
                "has no completion; sft needs `completion`, `solution` or a last assistant turn"
            )
            problems.append(_problem(item.number, reason))
        elif needs != "sft" and (missing := _find_missing_field(item, fields)) is not None:
            problems.append(_problem(item.number, _describe_missing(missing, fields[missing])))
        elif needs != "sft" and (
            wrong := next(filter(None, (check(item.item) for check in checks)), "")
        ):
            problems.append(_problem(item.number, wrong))
        else:
            rows.append(item)
    if problems:
        what = f"The data file {path} cannot be used for {needs}"
        raise ProblemsError(
            "dataset_invalid", what, problems[:MAX_PROBLEMS_SHOWN], total=len(problems)
        )
    return rows


def _find_missing_field(row: Row, fields: Iterable[str]) -> str | None:
    item = row.item
    for path in fields:
        try:
            look_up(item, path)
        except MissingFieldError:
            return path
    return None


def _describe_missing(path: str, grader: str) -> str:
    if path == "reference_answer":
        what = rf"has no reference answer, which the grader {grader!r} compares with"
        return rf"{what}; add `answer`, or a solution with \boxed{{}}"
    return f"has no field {path!r}, which the grader {grader!r} reads; add it, or change the grader"


def iter_rows(path: Path) -> Iterator[Row]:
    """Yield the valid rows in order; for files that were validated."""
    return (item for item in _scan(path) if isinstance(item, Row))


def check_file(path: Path) -> FileReport:
    """Validate the whole file; raises ProblemsError("dataset_invalid") only if it cannot be opened."""
    report = FileReport(path=path)
    for item, layout in _scan_with_layout(path):
        if isinstance(item, Problem):
            report.num_problems += 1
            report.problems += [item] * (len(report.problems) < MAX_PROBLEMS_SHOWN)
            continue
        report.rows += 1
        report.sft_rows += item.completion is not None
        report.rl_rows += item.answer is not None
        report.format = layout if report.format in ("", layout) else "mixed"
        report.longest_prompt_chars = max(report.longest_prompt_chars, item.prompt_chars)
        report.longest_completion_chars = max(
            report.longest_completion_chars, len(item.completion or "")
        )
    return report


def _scan(path: Path) -> Iterator[Row | Problem]:
    return (item for item, _ in _scan_with_layout(path))


def _scan_with_layout(path: Path) -> Iterator[tuple[Row | Problem, str]]:
    """Yield each row, or its problem, with the names of the fields read."""
    empty = True
    try:
        for item in _parquet_rows(path) if is_parquet(path) else _json_rows(path):
            empty = False
            yield item
    except OSError as error:
        problem = Problem(
            str(path),
            f"{error.strerror or error}; give the path of a readable JSONL or Parquet file",
        )
        raise ProblemsError(
            "dataset_invalid", "The data file cannot be opened", [problem]
        ) from None
    if empty:
        yield Problem(str(path), "the file has no rows; write one JSON object per line"), ""


def _parquet_rows(path: Path) -> Iterator[tuple[Row | Problem, str]]:
    number = 0  # of the last row that could be read
    try:
        for number, record in enumerate(iter_parquet(path), start=1):
            yield _row_or_problem(number, record)
    except FieldError as error:
        yield _problem(number + 1, str(error)), ""


def _json_rows(path: Path) -> Iterator[tuple[Row | Problem, str]]:
    for number, line in _lines(path):
        kind = next((kind for magic, kind in _MAGIC.items() if line.startswith(magic)), None)
        if number == 1 and kind:
            yield (
                _problem(1, f"the file is {kind}; supported are JSON Lines and Parquet"),
                "",
            )
            return
        yield _row_or_problem(number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield numbered lines without trailing blank ones; other blank lines are reported as problems."""
    blank: list[tuple[int, bytes]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                blank.append((number, line))
                continue
            yield from blank
            blank.clear()
            yield number, line


def _row_or_problem(number: int, source: bytes | FieldError) -> tuple[Row | Problem, str]:
    """Parse a line of JSON; an error stands for a row that has none."""
    try:
        if isinstance(source, FieldError):
            raise source
        record = _parse_json(source)
        fields = read_fields(record)
        return _make_row(number, record, fields), "/".join(fields.used)
    except FieldError as error:
        return _problem(number, str(error)), ""


def _parse_json(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
        record = json.loads(
            text, parse_constant=_reject_constant, object_pairs_hook=_require_unique_keys
        )
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except FieldError:
        raise
    except UnicodeDecodeError as error:
        raise FieldError(
            f"is not UTF-8 (byte {error.start}: {error.reason}); convert the file to UTF-8"
        ) from None
    except UnicodeEncodeError:
        raise FieldError(
            "has an unpaired surrogate, which is not a character; remove the \\uD8xx escape"
        ) from None
    except json.JSONDecodeError as error:
        raise FieldError(_describe_json_error(error, text, line)) from None
    except (ValueError, RecursionError) as error:
        raise FieldError(f"is not readable JSON: {error}") from None
    if not isinstance(record, dict):
        raise FieldError(
            f"is {_shorten(record)}, not a JSON object; write one object per line, without a list around them"
        )
    return record


def _describe_json_error(error: json.JSONDecodeError, text: str, line: bytes) -> str:
    if not text.strip():
        return "is empty; remove the blank line"
    if error.pos >= len(text.rstrip()) or "Unterminated" in error.msg:
        cut = "" if line.endswith(b"\n") else ", and the file is truncated"
        return f"is truncated JSON: it ends in the middle of a value{cut}"
    return f"is not JSON: {error.msg} at character {error.pos + 1}, near {_shorten(text[error.pos : error.pos + 20])}"


def _reject_constant(name: str) -> Any:
    raise FieldError(f"has {name}, which is not valid JSON")


def _require_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise FieldError(
            f"has the field {next(key for key in keys if keys.count(key) > 1)!r} twice; keep one of them"
        )
    return record


def _make_row(number: int, record: dict[str, Any], fields: Fields) -> Row:
    own_id = next((name for name in ID_FIELDS if record.get(name) is not None), None)
    source = next(
        (name for name in ("data_source", "source") if isinstance(record.get(name), str)), None
    )
    read = {
        *fields.used,
        own_id,
        source,
        "metadata",
        *([ANSWER_TYPE_FIELD] if fields.answer is not None else []),
    }
    given = record.get("metadata")
    # LiveCodeBench has an object as text, for its grader.
    if isinstance(given, str) and given.lstrip().startswith("{"):
        given = None
    if given is not None and not isinstance(given, dict):
        raise FieldError(f"the field metadata is {_shorten(given)}; it must be an object")
    # Canonical, so that the id does not depend on the order of the keys or on the file format.
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    rest = {name: value for name, value in record.items() if name not in read}
    return Row(
        row_id=digest if own_id is None else str(record[own_id]),
        number=number,
        messages=fields.messages,
        answer=fields.answer,
        answer_type=_read_answer_type(record, fields),
        completion=fields.completion,
        data_source="" if source is None else record[source],
        metadata={**rest, **(given or {})},
        record=record,
    )


def _read_answer_type(record: dict[str, Any], fields: Fields) -> AnswerType | None:
    if fields.answer is None:
        return None
    stated = record.get(ANSWER_TYPE_FIELD)
    if stated is None:
        return infer_answer_type(fields.answer)
    if stated not in list(AnswerType):
        raise FieldError(
            f"the field {ANSWER_TYPE_FIELD} is {_shorten(stated)}; the types are {', '.join(AnswerType)}"
        )
    return AnswerType(stated)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_SHOWN else text[:_MAX_VALUE_SHOWN] + "…"


def _problem(number: int, reason: str) -> Problem:
    return Problem(f"row {number}", reason)
