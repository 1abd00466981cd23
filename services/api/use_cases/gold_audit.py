"""Gold answers of an uploaded file: typed, verified against themselves, and kept beside the file.

`.golds.jsonl` has a line for every row with a gold, `.golds.json` is the summary that the API
shows. Without a reward service the golds are typed and not audited, which the summary shows.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from services.api.adapters.fleet import Fleet
from services.api.schemas.files import GoldProblem, GoldSummary
from services.common.data.rows import Row, iter_rows
from services.common.errors import PlatformError, Problem
from services.common.pb.dirl.v1 import reward_pb2
from services.common.telemetry.logs import get_logger

ROWS: Final = ".golds.jsonl"
SUMMARY: Final = ".golds.json"
"""An upload never has a name with a leading dot, so it cannot have one of these."""
_BATCH: Final = 1024
_MAX_AUDITED: Final = 16_384
"""Distinct golds of a file that are audited; the others are typed."""
_MAX_LISTED: Final = 20
_MAX_SHOWN: Final = 200

log = get_logger()

Gold = tuple[str, str]
"""Text and type."""


def audit_file(fleet: Fleet, path: Path) -> None:
    """Type and audit the golds of a checked file, and store both beside it; does nothing without
    golds.
    """
    golds = {(row.answer or "", row.gold_type or "") for row in _iter_rows_with_gold(path)}
    if not golds:
        return
    audits = _request_audits(fleet, sorted(golds)[:_MAX_AUDITED])
    summary = GoldSummary(types={}, audited=0, num_invalid=0, num_flagged=0, invalid=[], flagged=[])
    types: Counter[str] = Counter()
    with (path.parent / ROWS).open("w", encoding="utf-8") as file:
        for row in _iter_rows_with_gold(path):
            audit = audits.get((row.answer or "", row.gold_type or ""))
            types[str(row.gold_type)] += 1
            status, reason = ("unknown", "") if audit is None else (audit.status, audit.reason)
            _count_problem(summary, row, status, reason)
            line = {"row": row.number, "type": row.gold_type, "status": status, "reason": reason}
            file.write(json.dumps(line) + "\n")
    summary.types = dict(types)
    (path.parent / SUMMARY).write_text(summary.model_dump_json(), encoding="utf-8")


def read_summary(path: Path) -> GoldSummary | None:
    """The stored summary of a file's gold answers; None for a file without any."""
    stored = path.parent / SUMMARY
    return GoldSummary.model_validate_json(stored.read_bytes()) if stored.exists() else None


def find_gold_problems(path: Path) -> Iterator[Problem]:
    """What keeps the file's golds from being used by reinforcement and evaluation."""
    summary = read_summary(path)
    if summary is None or summary.num_invalid == 0:
        return
    for problem in summary.invalid:
        what = f"gold {problem.gold!r} cannot be verified against itself ({problem.reason}); correct or remove the row"
        yield Problem(f"row {problem.row}", what)
    if summary.num_invalid > len(summary.invalid):
        yield Problem(
            str(path.name),
            f"{summary.num_invalid} golds in all cannot be verified against themselves",
        )


def _iter_rows_with_gold(path: Path) -> Iterable[Row]:
    return (row for row in iter_rows(path) if row.answer is not None)


def _request_audits(fleet: Fleet, golds: Sequence[Gold]) -> dict[Gold, reward_pb2.GoldAudit]:
    audits: dict[Gold, reward_pb2.GoldAudit] = {}
    for start in range(0, len(golds), _BATCH):
        batch = golds[start : start + _BATCH]
        try:
            results = fleet.audit_golds(
                [reward_pb2.Gold(gold=gold, gold_type=kind) for gold, kind in batch]
            )
        except PlatformError as error:
            log.warning("golds not audited", code=error.code, error=error.message)
            return audits
        audits.update(zip(batch, results, strict=True))
    return audits


def _count_problem(summary: GoldSummary, row: Row, status: str, reason: str) -> None:
    summary.audited += status != "unknown"
    if status not in ("invalid", "flagged"):
        return
    shown = (row.answer or "")[:_MAX_SHOWN]
    problem = GoldProblem(row=row.number, gold=shown, type=str(row.gold_type), reason=reason)
    listed = summary.invalid if status == "invalid" else summary.flagged
    listed += [problem] * (len(listed) < _MAX_LISTED)
    summary.num_invalid += status == "invalid"
    summary.num_flagged += status == "flagged"
