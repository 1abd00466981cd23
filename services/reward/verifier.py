"""From responses to verdicts: extract, compare cheaply, send the rest to the pool, score. No
transport, no sympy.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Final, NamedTuple

from services.common.answers.gold_types import GoldType, gold_type
from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger
from services.common.trajectory import FinishReason, Outcome, Verdict
from services.reward.audit import GoldAudit, audit_golds
from services.reward.cancellation import Cancellation
from services.reward.equivalence import Comparison, compare
from services.reward.extraction import Extraction, Profile, extract
from services.reward.graders import Grader, score_all
from services.reward.pool import SHUTTING_DOWN, Graded, Pool
from services.reward.scores import Failure, GradingLimits, JudgedResponse, Score

RULES_VERSION: Final = 5
"""Raised whenever a rule of extraction, normalisation or comparison changes a verdict."""
_PACKAGES: Final = ("math-verify", "latex2sympy2_extended", "sympy")
_CUT_OFF: Final = {"unclosed_box"}

log = get_logger()


class ComparisonKey(NamedTuple):
    """What a verdict of the comparator hangs on: the key under which it is remembered."""

    version: str
    profile: Profile
    kind: GoldType
    gold: str
    """Normalised, as is the answer."""
    answer: str


@dataclass(frozen=True)
class Item:
    """One response to be judged."""

    item_id: str
    gold: str
    response: str
    finish_reason: FinishReason
    kind: GoldType | None = None
    """None lets the gold's text say it."""
    num_tokens: int = 0
    """Visible tokens of the response; like the next two, 0 when unknown, and for length and speed
    graders only.
    """
    num_steps: int = 0
    max_new_tokens: int = 0


@dataclass(frozen=True)
class _Draft:
    """A verdict, and the question that the pool has to answer before it is final."""

    item: Item
    verdict: Verdict
    extraction: Extraction = field(default_factory=Extraction)
    question: ComparisonKey | None = None


class Verifier:
    """Judges batches. `verify` may be called from many threads."""

    def __init__(self, pool: Pool, *, cache_size: int) -> None:
        self.pool = pool
        self._metrics = pool.metrics
        self._cache = _Cache(cache_size)
        self.version = "+".join(
            (f"rules-{RULES_VERSION}", *(f"{package}-{version(package)}" for package in _PACKAGES))
        )

    def verify(
        self,
        items: Sequence[Item],
        graders: Sequence[Grader],
        profile: Profile,
        *,
        timeout_s: float,
        expires_at: float,
        cancellation: Cancellation | None = None,
    ) -> list[Verdict]:
        """Verdicts in the order of the items; equal (gold, answer) pairs are compared once.

        `timeout_s` is wall time of one comparison from its dispatch; what is not dispatched by
        `expires_at` (time.monotonic) is unverifiable. Raises PlatformError("busy") when the queue
        is full, and "verifier_unavailable" when the pool closes meanwhile: the batch may be sent to
        another service.
        """
        cancellation = cancellation or Cancellation()
        drafts = [self._draft(item, profile) for item in items]
        asked = [draft.question for draft in drafts if draft.question is not None]
        questions = list(dict.fromkeys(asked))
        self._metrics.duplicates.inc(len(asked) - len(questions))
        graded = self._compare(questions, timeout_s, expires_at, cancellation)
        limits = GradingLimits(expires_at, cancellation)
        verdicts = self._scored([self._finish(draft, graded) for draft in drafts], graders, limits)
        for verdict in verdicts:
            self._metrics.verifications.labels(verdict.outcome.value).inc()
        return verdicts

    def audit(
        self, golds: Sequence[tuple[str, GoldType | None]], *, timeout_s: float, expires_at: float
    ) -> list[GoldAudit]:
        """What each gold is, and whether it can be verified against itself; raises
        PlatformError("busy").
        """
        return audit_golds(self.pool, golds, timeout_s, expires_at)

    def _draft(self, item: Item, profile: Profile) -> _Draft:
        try:
            return _judge(item, profile, self.version)
        except Exception:  # a fault of one item must not touch its neighbours
            log.exception("item failed", item_id=item.item_id, gold=item.gold)
            return _Draft(item, Verdict(outcome=Outcome.UNVERIFIABLE, reason="internal_error"))

    def _compare(
        self,
        questions: list[ComparisonKey],
        timeout_s: float,
        expires_at: float,
        cancellation: Cancellation,
    ) -> dict[ComparisonKey, Graded]:
        known = {
            question: graded
            for question in questions
            if (graded := self._cache.get(question)) is not None
        }
        unknown = [question for question in questions if question not in known]
        self._metrics.cache.labels("hit").inc(len(known))
        self._metrics.cache.labels("miss").inc(len(unknown))
        pairs = [(question.gold, question.answer) for question in unknown]
        futures = self.pool.submit(
            pairs, timeout_s=timeout_s, expires_at=expires_at, cancellation=cancellation
        )
        fresh = {
            question: future.result() for question, future in zip(unknown, futures, strict=True)
        }
        if any(graded.reason == SHUTTING_DOWN for graded in fresh.values()):
            raise PlatformError("verifier_unavailable", "The verifier is shutting down; ask again.")
        for question, graded in fresh.items():
            if graded.is_deterministic:
                self._cache.put(question, replace(graded, cpu_ms=0.0, wall_ms=0.0, queue_ms=0.0))
        return {**known, **fresh}

    def _finish(self, draft: _Draft, graded: Mapping[ComparisonKey, Graded]) -> _Draft:
        """The draft with its final outcome."""
        verdict = replace(draft.verdict, verifier_version=self.version)
        if draft.question is not None:
            result = graded[draft.question]
            verdict = replace(
                verdict,
                outcome=result.outcome,
                reason=result.reason,
                cpu_ms=result.cpu_ms,
                wall_ms=result.wall_ms,
                queue_ms=result.queue_ms,
            )
        return replace(draft, verdict=verdict)

    def _scored(
        self, drafts: list[_Draft], graders: Sequence[Grader], limits: GradingLimits
    ) -> list[Verdict]:
        """Verdicts with the graders' scores; one for which a grader had no number is unverifiable."""
        scorable = [draft for draft in drafts if draft.verdict.outcome.is_scored]
        scores = iter(score_all(graders, [_judged_response(draft) for draft in scorable], limits))
        return [
            _with_scores(draft.verdict, next(scores))
            if draft.verdict.outcome.is_scored
            else draft.verdict
            for draft in drafts
        ]


def _judged_response(draft: _Draft) -> JudgedResponse:
    item = draft.item
    return JudgedResponse(
        response=item.response,
        extraction=draft.extraction,
        outcome=draft.verdict.outcome,
        gold=item.gold,
        num_tokens=item.num_tokens,
        num_steps=item.num_steps,
        max_new_tokens=item.max_new_tokens,
    )


def _with_scores(verdict: Verdict, scores: Mapping[str, Score]) -> Verdict:
    failed = next(
        ((name, score) for name, score in scores.items() if isinstance(score, Failure)), None
    )
    if failed is None:
        return replace(
            verdict,
            rewards={name: score for name, score in scores.items() if isinstance(score, float)},
        )
    name, failure = failed
    log.warning("grader gave no score", grader=name, reason=failure.reason, detail=failure.detail)
    why = f" ({failure.detail})" if failure.detail else ""
    return replace(
        verdict, outcome=Outcome.UNVERIFIABLE, reason=f"grader:{name}:{failure.reason}{why}"
    )


def _judge(item: Item, profile: Profile, version: str) -> _Draft:
    """Everything that needs no sympy. What ran out of tokens is truncated, whatever it says."""
    if item.finish_reason is FinishReason.ABORTED:
        return _Draft(item, Verdict(outcome=Outcome.ABORTED))
    extraction = extract(item.response, profile)
    if item.finish_reason is FinishReason.LENGTH:
        return _Draft(item, _verdict(extraction, Outcome.TRUNCATED, "length"), extraction)
    if extraction.failure:
        outcome = Outcome.TRUNCATED if extraction.failure in _CUT_OFF else Outcome.NO_ANSWER
        return _Draft(item, _verdict(extraction, outcome, extraction.failure), extraction)
    kind = item.kind or gold_type(item.gold)
    comparison = compare(item.gold, extraction, profile, kind)
    question = ComparisonKey(version, profile, kind, comparison.gold, comparison.answer)
    return _compared(item, extraction, comparison, question)


def _compared(
    item: Item, extraction: Extraction, comparison: Comparison, question: ComparisonKey
) -> _Draft:
    verdict = replace(
        _verdict(extraction, comparison.outcome or Outcome.UNVERIFIABLE, comparison.reason),
        normalized_gold=comparison.gold,
        normalized_answer=comparison.answer,
        compare_path=comparison.path,
    )
    return _Draft(item, verdict, extraction, question if comparison.outcome is None else None)


def _verdict(extraction: Extraction, outcome: Outcome, reason: str) -> Verdict:
    return Verdict(
        outcome=outcome,
        reason=reason,
        extracted=extraction.text,
        extraction_method=extraction.method,
    )


class _Cache:
    """The most recently used verdicts that no machine or load could change."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[ComparisonKey, Graded] = OrderedDict()

    def get(self, question: ComparisonKey) -> Graded | None:
        with self._lock:
            if question in self._entries:
                self._entries.move_to_end(question)
            return self._entries.get(question)

    def put(self, question: ComparisonKey, graded: Graded) -> None:
        with self._lock:
            self._entries[question] = graded
            self._entries.move_to_end(question)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
