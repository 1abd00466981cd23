"""Check that reference answers are verifiable: each one must equal itself.

The check runs once per data file, so that a faulty row does not cost one verification per response.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from services.common.answers.gold_types import GoldType, gold_type
from services.common.answers.normalisation import normalise
from services.common.answers.statements import gold_answer
from services.common.trajectory import Outcome
from services.reward.guard import MAX_CHARS, find_violation
from services.reward.pool import ComparisonResult, Pool

Status = Literal["ok", "flagged", "invalid", "unknown"]

_EXACT: Final = frozenset(
    {
        GoldType.INTEGER, GoldType.RATIONAL, GoldType.PERCENT, GoldType.TIME, GoldType.BASE_N, GoldType.CHOICE,
        GoldType.TEXT,
    }
)  # fmt: skip
"""Types that are compared without sympy."""
_LONG: Final = 150
_ELLIPSIS: Final = re.compile(r"\\[lcdv]?dots|\.\.\.|…")
_WORDS: Final = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4,} +[a-zA-Z]{3,}")


@dataclass(frozen=True)
class GoldAudit:
    """Result of the audit of one reference answer."""

    kind: GoldType
    status: Status
    """ok | flagged: usable, but equivalent answers may be rejected | invalid: no answer could be
    verified | unknown: the comparator returned no verdict
    """
    reason: str = ""


def audit_golds(
    pool: Pool, golds: Sequence[tuple[str, GoldType | None]], timeout_s: float, expires_at: float
) -> list[GoldAudit]:
    """Return the audits in order. The comparator decides those that text rules cannot decide.

    Raises PlatformError("busy") when the queue is full.
    """
    drafts = [_audit_text(gold, kind) for gold, kind in golds]
    open_golds = list(dict.fromkeys(text for text, audit in drafts if audit.status == "unknown"))
    futures = pool.submit(
        [(text, text) for text in open_golds], timeout_s=timeout_s, expires_at=expires_at
    )
    results = {text: future.result() for text, future in zip(open_golds, futures, strict=True)}
    return [
        _audit_result(audit, results[text]) if text in results else audit for text, audit in drafts
    ]


def _audit_text(gold: str, kind: GoldType | None) -> tuple[str, GoldAudit]:
    """Return the normalised reference answer and its audit; "unknown" is left to the comparator."""
    answer = gold_answer(gold)
    kind = kind or gold_type(gold)
    if len(answer) > MAX_CHARS:
        return "", GoldAudit(kind, "invalid", "too_long")
    text = normalise(answer).text
    if not text:
        return "", GoldAudit(kind, "invalid", "empty")
    if rule := find_violation(text):
        return "", GoldAudit(kind, "invalid", rule)
    if _ELLIPSIS.search(text):
        return "", GoldAudit(kind, "flagged", "ellipsis")
    if kind in _EXACT:
        return "", GoldAudit(kind, "ok")
    if len(text) > _LONG or _WORDS.search(text):
        return "", GoldAudit(kind, "flagged", "long" if len(text) > _LONG else "words")
    return text, GoldAudit(kind, "unknown")


def _audit_result(audit: GoldAudit, result: ComparisonResult) -> GoldAudit:
    if result.outcome is Outcome.CORRECT:
        return GoldAudit(audit.kind, "flagged" if result.reason else "ok", result.reason)
    if result.outcome is Outcome.UNVERIFIABLE and result.reason != "gold_invalid":
        return GoldAudit(audit.kind, "unknown", result.reason)
    return GoldAudit(audit.kind, "invalid", result.reason or "not_itself")
