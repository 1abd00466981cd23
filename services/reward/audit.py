"""Check that reference answers are verifiable: each one must equal itself.

The check runs once per data file, so that a faulty row does not cost one verification per response.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.common.answers.candidates import extract_reference
from services.common.answers.normalisation import normalise
from services.common.linear_patterns import LinearPattern
from services.common.trajectory import Outcome
from services.reward.comparison_request import ComparisonRequest
from services.reward.extraction import Profile
from services.reward.guard import MAX_CHARS
from services.reward.pool import Pool

Status = Literal["ok", "flagged", "invalid", "unknown"]

_EXACT: Final = frozenset(
    {
        AnswerType.INTEGER, AnswerType.RATIONAL, AnswerType.PERCENT, AnswerType.TIME, AnswerType.BASE_N,
        AnswerType.CHOICE, AnswerType.TEXT,
    }
)  # fmt: skip
"""Types that are compared without sympy."""
_LONG: Final = 150
_ELLIPSIS: Final = LinearPattern(r"\\[lcdv]?dots|\.\.\.|…")
_WORDS: Final = LinearPattern(r"(?<![\\a-zA-Z])[a-zA-Z]{4,} +[a-zA-Z]{3,}")


@dataclass(frozen=True)
class ReferenceAudit:
    """Result of the audit of one reference answer."""

    kind: AnswerType
    status: Status
    """ok | flagged: usable, but equivalent answers may be rejected | invalid: no answer could be
    verified | unknown: the comparator returned no verdict
    """
    reason: str = ""


def audit_reference_answers(
    pool: Pool,
    references: Sequence[tuple[str, AnswerType | None]],
    timeout_s: float,
    expires_at: float,
) -> list[ReferenceAudit]:
    """Return the audits in order. The comparator decides those that text rules cannot decide.

    Raises PlatformError("busy") when the queue is full.
    """
    drafts = [_audit_text(reference, kind) for reference, kind in references]
    requests = {
        text: ComparisonRequest(text, text, audit.kind, Profile.EVAL)
        for text, audit in drafts
        if audit.status == "unknown"
    }
    futures = pool.submit(list(requests.values()), timeout_s=timeout_s, expires_at=expires_at)
    results = {text: future.result() for text, future in zip(requests, futures, strict=True)}
    audits = []
    for text, audit in drafts:
        status, reason = audit.status, audit.reason
        if result := results.get(text):
            reason = result.reason
            if result.outcome is Outcome.CORRECT:
                status = "flagged" if reason else "ok"
            # A lost worker or a busy machine says nothing about the row, so it does not reject it.
            elif result.outcome is not Outcome.UNVERIFIABLE or reason == "reference_answer_invalid":
                status, reason = "invalid", reason or "not_itself"
        audits.append(ReferenceAudit(audit.kind, status, reason))
    return audits


def _audit_text(reference: str, kind: AnswerType | None) -> tuple[str, ReferenceAudit]:
    """Return the normalised reference answer and its audit; "unknown" is left to the comparator."""
    answer = extract_reference(reference)
    kind = kind or infer_answer_type(reference)
    if len(answer) > MAX_CHARS:
        return "", ReferenceAudit(kind, "invalid", "too_long")
    text = normalise(answer).text
    if not text:
        return "", ReferenceAudit(kind, "invalid", "empty")
    if _ELLIPSIS.search(text):
        return "", ReferenceAudit(kind, "flagged", "ellipsis")
    if kind in _EXACT:
        return "", ReferenceAudit(kind, "ok")
    if len(text) > _LONG or _WORDS.search(text):
        return "", ReferenceAudit(kind, "flagged", "long" if len(text) > _LONG else "words")
    return text, ReferenceAudit(kind, "unknown")
