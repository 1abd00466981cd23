"""Audit of the reference answers of an uploaded file, stored next to the file.

`.reference_answers.jsonl` has a line for every row with a reference answer, `.reference_answers.json`
is the summary that the API shows. Without a reward service the types are inferred and nothing is
audited, which the summary shows.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TextIO

from services.api.adapters.fleet import Fleet
from services.api.schemas.files import ReferenceAnswerProblem, ReferenceAnswerSummary
from services.common.data.reading import AS_IT_IS, Reading
from services.common.data.rows import Row, iter_rows
from services.common.errors import PlatformError, Problem
from services.common.pb.dirl.v1 import reward_pb2
from services.common.telemetry.logs import get_logger

ROWS: Final = ".reference_answers.jsonl"
SUMMARY: Final = ".reference_answers.json"
"""An upload never has a name with a leading dot, so it cannot have one of these."""
_BATCH: Final = 1024
_MAX_AUDITED: Final = 16_384
"""Distinct reference answers of a file that are audited; the others are typed."""
_MAX_LISTED: Final = 20
_MAX_SHOWN: Final = 200

log = get_logger()

ReferenceAnswer = tuple[str, str]
"""Text and type."""


def audit_file(fleet: Fleet, path: Path) -> None:
    """Audit the reference answers of a valid file, if it has any, and store rows and summary."""
    with (path.parent / ROWS).open("w", encoding="utf-8") as file:
        summary = audit_reference_answers(fleet, path, AS_IT_IS, file)
    if summary is None:
        (path.parent / ROWS).unlink()
    else:
        (path.parent / SUMMARY).write_text(summary.model_dump_json(), encoding="utf-8")


def audit_reference_answers(
    fleet: Fleet, path: Path, reading: Reading, lines: TextIO | None = None
) -> ReferenceAnswerSummary | None:
    """Audit the reference answers of the rows that are taken, and write a line for each; None for a file
    without any.
    """
    reference_answers: set[ReferenceAnswer] = set()
    for row in _iter_rows_with_reference_answer(path, reading):
        reference_answers.add((row.answer or "", row.answer_type or ""))
        if len(reference_answers) == _MAX_AUDITED:
            break
    if not reference_answers:
        return None
    audits = _request_audits(fleet, sorted(reference_answers))
    summary = ReferenceAnswerSummary(
        types={}, audited=0, num_invalid=0, num_flagged=0, invalid=[], flagged=[]
    )
    types: Counter[str] = Counter()
    for row in _iter_rows_with_reference_answer(path, reading):
        audit = audits.get((row.answer or "", row.answer_type or ""))
        types[str(row.answer_type)] += 1
        status, reason = ("unknown", "") if audit is None else (audit.status, audit.reason)
        _count_problem(summary, row, status, reason)
        if lines is not None:
            line = {"row": row.number, "type": row.answer_type, "status": status, "reason": reason}
            lines.write(json.dumps(line) + "\n")
    summary.types = dict(types)
    return summary


def read_summary(path: Path) -> ReferenceAnswerSummary | None:
    """The stored summary of a file's reference answers; None for a file without any."""
    stored = path.parent / SUMMARY
    _rename_former_summary(path.parent)
    return (
        ReferenceAnswerSummary.model_validate_json(stored.read_bytes()) if stored.exists() else None
    )


def _rename_former_summary(directory: Path) -> None:
    """Convert a summary that was stored under the former names, once."""
    former = directory / ".golds.json"
    if not former.exists():
        return
    summary = json.loads(former.read_bytes())
    for problem in (*summary["invalid"], *summary["flagged"]):
        problem["reference_answer"] = problem.pop("gold")
    (directory / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
    former.unlink(missing_ok=True)


def find_reference_answer_problems(fleet: Fleet, path: Path, reading: Reading) -> Iterator[Problem]:
    """What keeps the file's reference answers from being used by reinforcement and evaluation: by the
    stored audit, or by one of the rows and references that the job's `data` selects.
    """
    is_stored = replace(reading, split=None) == AS_IT_IS
    summary = read_summary(path) if is_stored else audit_reference_answers(fleet, path, reading)
    if summary is None or summary.num_invalid == 0:
        return
    for problem in summary.invalid:
        what = (
            f"reference answer {problem.reference_answer!r} cannot be verified against itself "
            f"({problem.reason}); correct or remove the row"
        )
        yield Problem(f"row {problem.row}", what)
    if summary.num_invalid > len(summary.invalid):
        yield Problem(
            str(path.name),
            f"{summary.num_invalid} reference answers in all cannot be verified against themselves",
        )


def _iter_rows_with_reference_answer(path: Path, reading: Reading) -> Iterable[Row]:
    return (row for row in iter_rows(path, reading) if row.answer is not None)


def _request_audits(
    fleet: Fleet, reference_answers: Sequence[ReferenceAnswer]
) -> dict[ReferenceAnswer, reward_pb2.ReferenceAudit]:
    audits: dict[ReferenceAnswer, reward_pb2.ReferenceAudit] = {}
    for start in range(0, len(reference_answers), _BATCH):
        batch = reference_answers[start : start + _BATCH]
        try:
            results = fleet.audit_reference_answers(
                [
                    reward_pb2.ReferenceAnswer(reference_answer=reference_answer, answer_type=kind)
                    for reference_answer, kind in batch
                ]
            )
        except PlatformError as error:
            log.warning("reference answers not audited", code=error.code, error=error.message)
            return audits
        audits.update(zip(batch, results, strict=True))
    return audits


def _count_problem(summary: ReferenceAnswerSummary, row: Row, status: str, reason: str) -> None:
    summary.audited += status != "unknown"
    if status not in ("invalid", "flagged"):
        return
    shown = (row.answer or "")[:_MAX_SHOWN]
    problem = ReferenceAnswerProblem(
        row=row.number, reference_answer=shown, type=str(row.answer_type), reason=reason
    )
    listed = summary.invalid if status == "invalid" else summary.flagged
    listed += [problem] * (len(listed) < _MAX_LISTED)
    summary.num_invalid += status == "invalid"
    summary.num_flagged += status == "flagged"
