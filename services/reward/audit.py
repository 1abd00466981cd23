"""Can a gold answer be verified against itself? Asked once, when a data file comes in, and not by
every response.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from services.common.answers.gold_types import GoldType, gold_type
from services.common.answers.normalisation import normalise
from services.common.answers.statements import gold_answer
from services.common.trajectory import Outcome
from services.reward.guard import MAX_CHARS, refuse
from services.reward.pool import Graded, Pool

Status = Literal["ok", "flagged", "invalid", "unknown"]

_EXACT: Final = frozenset(
    {
        GoldType.INTEGER, GoldType.RATIONAL, GoldType.PERCENT, GoldType.TIME, GoldType.BASE_N, GoldType.CHOICE,
        GoldType.TEXT,
    }
)  # fmt: skip
"""Types that are compared without the comparator."""
_LONG: Final = 150
_ELLIPSIS: Final = re.compile(r"\\[lcdv]?dots|\.\.\.|…")
_WORDS: Final = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4,} +[a-zA-Z]{3,}")


@dataclass(frozen=True)
class GoldAudit:
    """What is known of one gold."""

    kind: GoldType
    status: Status
    """ok | flagged: usable, but other spellings of it may be refused | invalid: every answer would be unverifiable or
    refused | unknown: the comparator did not answer
    """
    reason: str = ""


def audit_golds(
    pool: Pool, golds: Sequence[tuple[str, GoldType | None]], timeout_s: float, expires_at: float
) -> list[GoldAudit]:
    """Audits in order; a gold that text alone cannot vouch for is compared with itself by the
    comparator.

    Raises PlatformError("busy") when the queue is full.
    """
    drafts = [_by_text(gold, kind) for gold, kind in golds]
    open_golds = list(dict.fromkeys(text for text, audit in drafts if audit.status == "unknown"))
    futures = pool.submit(
        [(text, text) for text in open_golds], timeout_s=timeout_s, expires_at=expires_at
    )
    judged = {text: future.result() for text, future in zip(open_golds, futures, strict=True)}
    return [
        _by_comparator(audit, judged[text]) if text in judged else audit for text, audit in drafts
    ]


def _by_text(gold: str, kind: GoldType | None) -> tuple[str, GoldAudit]:
    """The normalised gold, and its audit as far as text goes; "unknown" is left to the comparator."""
    answer = gold_answer(gold)
    kind = kind or gold_type(gold)
    if len(answer) > MAX_CHARS:
        return "", GoldAudit(kind, "invalid", "too_long")
    text = normalise(answer).text
    if not text:
        return "", GoldAudit(kind, "invalid", "empty")
    if rule := refuse(text):
        return "", GoldAudit(kind, "invalid", rule)
    if _ELLIPSIS.search(text):
        return "", GoldAudit(kind, "flagged", "ellipsis")
    if kind in _EXACT:
        return "", GoldAudit(kind, "ok")
    if len(text) > _LONG or _WORDS.search(text):
        return "", GoldAudit(kind, "flagged", "long" if len(text) > _LONG else "words")
    return text, GoldAudit(kind, "unknown")


def _by_comparator(audit: GoldAudit, graded: Graded) -> GoldAudit:
    if graded.outcome is Outcome.CORRECT:
        return GoldAudit(audit.kind, "flagged" if graded.reason else "ok", graded.reason)
    if graded.outcome is Outcome.UNVERIFIABLE and graded.reason != "gold_invalid":
        return GoldAudit(audit.kind, "unknown", graded.reason)
    return GoldAudit(audit.kind, "invalid", graded.reason or "not_itself")
