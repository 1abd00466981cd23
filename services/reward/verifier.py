"""From responses to verdicts: extract, compare cheaply, send the rest to the pool, score. No transport, no sympy."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Final

from services.common.answers.gold_types import GoldType
from services.common.telemetry.logs import get_logger
from services.common.trajectory import FinishReason, Outcome, Verdict
from services.reward.audit import GoldAudit, audit_golds
from services.reward.equivalence import Comparison, compare
from services.reward.extraction import Extraction, Profile, extract
from services.reward.graders import Grader, score_all
from services.reward.pool import Graded, Pool
from services.reward.scores import Failure, JudgedResponse, Score

RULES_VERSION: Final = 1
"""Raised whenever a rule of extraction, normalisation or comparison changes a verdict."""
_PACKAGES: Final = ("math-verify", "latex2sympy2_extended", "sympy")
_CUT_OFF: Final = {"unclosed_box"}

log = get_logger()

Pair = tuple[str, str]
"""Normalised gold, normalised answer."""


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
    """Visible tokens of the response; like the next two, 0 when unknown, and for length and speed graders only."""
    num_steps: int = 0
    max_new_tokens: int = 0


@dataclass(frozen=True)
class _Draft:
    """A verdict, and the pair that the pool has to compare before it is final."""

    item: Item
    verdict: Verdict
    extraction: Extraction = field(default_factory=Extraction)
    pair: Pair | None = None


class Verifier:
    """Judges batches. `verify` may be called from many threads."""

    def __init__(self, pool: Pool, *, cache_size: int) -> None:
        self._pool = pool
        self._cache = _Cache(cache_size)
        self.version = "+".join((f"rules-{RULES_VERSION}", *(f"{package}-{version(package)}" for package in _PACKAGES)))

    def verify(
        self,
        items: Sequence[Item],
        graders: Sequence[Grader],
        profile: Profile,
        *,
        timeout_s: float,
        expires_at: float,
    ) -> list[Verdict]:
        """Verdicts in the order of the items; equal (gold, answer) pairs are compared once.

        `timeout_s` is wall time of one comparison from its dispatch; what is not dispatched by `expires_at`
        (time.monotonic) is unverifiable. Raises PlatformError("busy") when the queue is full.
        """
        drafts = [self._draft(item, profile) for item in items]
        pairs = list(dict.fromkeys(draft.pair for draft in drafts if draft.pair is not None))
        graded = self._compare(pairs, timeout_s, expires_at)
        return self._scored([self._finish(draft, graded) for draft in drafts], graders, expires_at)

    def audit(
        self, golds: Sequence[tuple[str, GoldType | None]], *, timeout_s: float, expires_at: float
    ) -> list[GoldAudit]:
        """What each gold is, and whether it can be verified against itself; raises PlatformError("busy")."""
        return audit_golds(self._pool, golds, timeout_s, expires_at)

    def _draft(self, item: Item, profile: Profile) -> _Draft:
        try:
            return _judge(item, profile)
        except Exception:  # a fault of one item must not touch its neighbours
            log.exception("item failed", item_id=item.item_id, gold=item.gold)
            return _Draft(item, Verdict(outcome=Outcome.UNVERIFIABLE, reason="internal_error"))

    def _compare(self, pairs: list[Pair], timeout_s: float, expires_at: float) -> dict[Pair, Graded]:
        known = {pair: graded for pair in pairs if (graded := self._cache.get(pair)) is not None}
        unknown = [pair for pair in pairs if pair not in known]
        futures = self._pool.submit(unknown, timeout_s=timeout_s, expires_at=expires_at) if unknown else []
        fresh = {pair: future.result() for pair, future in zip(unknown, futures, strict=True)}
        for pair, graded in fresh.items():
            if graded.is_deterministic:
                self._cache.put(pair, replace(graded, cpu_ms=0.0, wall_ms=0.0, queue_ms=0.0))
        return {**known, **fresh}

    def _finish(self, draft: _Draft, graded: Mapping[Pair, Graded]) -> _Draft:
        """The draft with its final outcome."""
        verdict = replace(draft.verdict, verifier_version=self.version)
        if draft.pair is not None:
            result = graded[draft.pair]
            verdict = replace(
                verdict,
                outcome=result.outcome,
                reason=result.reason,
                cpu_ms=result.cpu_ms,
                wall_ms=result.wall_ms,
                queue_ms=result.queue_ms,
            )
        return replace(draft, verdict=verdict)

    def _scored(self, drafts: list[_Draft], graders: Sequence[Grader], expires_at: float) -> list[Verdict]:
        """Verdicts with the graders' scores; one for which a grader had no number is unverifiable."""
        scorable = [draft for draft in drafts if draft.verdict.outcome.is_scored]
        scores = iter(score_all(graders, [_judged_response(draft) for draft in scorable], expires_at))
        return [
            _with_scores(draft.verdict, next(scores)) if draft.verdict.outcome.is_scored else draft.verdict
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
    failed = next(((name, score) for name, score in scores.items() if isinstance(score, Failure)), None)
    if failed is None:
        return replace(verdict, rewards={name: score for name, score in scores.items() if isinstance(score, float)})
    name, failure = failed
    log.warning("grader gave no score", grader=name, reason=failure.reason, detail=failure.detail)
    return replace(verdict, outcome=Outcome.UNVERIFIABLE, reason=f"grader:{name}:{failure.reason}")


def _judge(item: Item, profile: Profile) -> _Draft:
    """Everything that needs no sympy. What ran out of tokens is truncated, whatever it says."""
    if item.finish_reason is FinishReason.ABORTED:
        return _Draft(item, Verdict(outcome=Outcome.ABORTED))
    extraction = extract(item.response, profile)
    if item.finish_reason is FinishReason.LENGTH:
        return _Draft(item, _verdict(extraction, Outcome.TRUNCATED, "length"), extraction)
    if extraction.failure:
        outcome = Outcome.TRUNCATED if extraction.failure in _CUT_OFF else Outcome.NO_ANSWER
        return _Draft(item, _verdict(extraction, outcome, extraction.failure), extraction)
    return _compared(item, extraction, compare(item.gold, extraction, profile, item.kind))


def _compared(item: Item, extraction: Extraction, comparison: Comparison) -> _Draft:
    verdict = replace(
        _verdict(extraction, comparison.outcome or Outcome.UNVERIFIABLE, comparison.reason),
        normalized_gold=comparison.gold,
        normalized_answer=comparison.answer,
        compare_path=comparison.path,
    )
    pair = (comparison.gold, comparison.answer) if comparison.outcome is None else None
    return _Draft(item, verdict, extraction, pair)


def _verdict(extraction: Extraction, outcome: Outcome, reason: str) -> Verdict:
    return Verdict(outcome=outcome, reason=reason, extracted=extraction.text, extraction_method=extraction.method)


class _Cache:
    """The most recently used verdicts that no machine or load could change."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[Pair, Graded] = OrderedDict()

    def get(self, pair: Pair) -> Graded | None:
        with self._lock:
            if pair in self._entries:
                self._entries.move_to_end(pair)
            return self._entries.get(pair)

    def put(self, pair: Pair, graded: Graded) -> None:
        with self._lock:
            self._entries[pair] = graded
            self._entries.move_to_end(pair)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
