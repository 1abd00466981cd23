"""Grade responses: extract answers, compare by rules, send the rest to the pool, run graders."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Final

from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger
from services.common.trajectory import FinishReason, Outcome, Verdict
from services.reward.audit import ReferenceAudit, audit_reference_answers
from services.reward.cancellation import Cancellation
from services.reward.comparison_request import ComparisonRequest
from services.reward.equivalence import compare
from services.reward.extraction import Extraction, Profile, extract
from services.reward.graders import Grader, score_all
from services.reward.letter_case import read_problem
from services.reward.pool import SHUTTING_DOWN, ComparisonResult, Pool
from services.reward.scores import GradedResponse, GraderFailure, Grades, GradingLimits
from services.reward.unit_conversion import load_registry

RULES_VERSION: Final = 7
"""Incremented when a change of extraction, normalisation or comparison changes a verdict."""
_PACKAGES: Final = ("python-flint", "pint", "math-verify", "latex2sympy2_extended", "sympy")
_CUT_OFF: Final = {"unclosed_box"}

log = get_logger()


@dataclass(frozen=True)
class Item:
    """A response to grade."""

    item_id: str
    reference_answer: str
    response: str
    finish_reason: FinishReason
    kind: AnswerType | None = None
    """None infers the type from the text."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The row of the data set, for graders."""
    unmask_step: Sequence[int] = ()
    num_tokens: int = 0
    """Visible tokens of the response. Like the next two, 0 if unknown; used by length and speed graders."""
    num_steps: int = 0
    max_new_tokens: int = 0


@dataclass(frozen=True)
class _Draft:
    """A verdict, and the comparison that the pool must make before it is final."""

    item: Item
    verdict: Verdict
    extraction: Extraction = field(default_factory=Extraction)
    request: ComparisonRequest | None = None


class Verifier:
    """Grades batches. `verify` may be called from several threads."""

    def __init__(self, pool: Pool, *, cache_size: int) -> None:
        self.pool = pool
        self._metrics = pool.metrics
        self._cache = _Cache(cache_size)
        load_registry()  # not by the first response with a unit
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
        """Return the verdicts in order; equal (reference answer, answer) pairs are compared once.

        `timeout_s` is wall time of one comparison from its dispatch; items not dispatched by
        `expires_at` (time.monotonic) are unverifiable. Raises PlatformError("busy") when the queue
        is full, and "verifier_unavailable" when the pool closes; the caller may send the batch to
        another service.
        """
        cancellation = cancellation or Cancellation()
        # Without graders the caller asks for the comparison alone, as `dirl reward check` does.
        compares = not graders or any(grader.uses_correctness for grader in graders)
        drafts = []
        for item in items:
            # The rules run in this process: a large batch must not outlive its caller or the service.
            if cancellation.is_cancelled or self.pool.is_closing:
                raise PlatformError(
                    "verifier_unavailable",
                    "The call was cancelled or the verifier is shutting down. Retry the request.",
                )
            drafts.append(self._draft(item, profile, compares=compares))
        requests = [draft.request for draft in drafts if draft.request is not None]
        distinct = list(dict.fromkeys(requests))
        self._metrics.duplicates.inc(len(requests) - len(distinct))
        results = self._compare(distinct, timeout_s, expires_at, cancellation)
        limits = GradingLimits(expires_at, cancellation)
        verdicts = self._score([self._finish(draft, results) for draft in drafts], graders, limits)
        for verdict in verdicts:
            self._metrics.verifications.labels(verdict.outcome.value).inc()
        return verdicts

    def audit(
        self,
        reference_answers: Sequence[tuple[str, AnswerType | None]],
        *,
        timeout_s: float,
        expires_at: float,
    ) -> list[ReferenceAudit]:
        """Audit reference answers; raises PlatformError("busy")."""
        return audit_reference_answers(self.pool, reference_answers, timeout_s, expires_at)

    def _draft(self, item: Item, profile: Profile, *, compares: bool) -> _Draft:
        try:
            return _grade(item, profile, compares=compares)
        except Exception:  # an error of one item must not fail the batch
            log.exception(
                "item failed", item_id=item.item_id, reference_answer=item.reference_answer
            )
            return _Draft(item, Verdict(outcome=Outcome.UNVERIFIABLE, reason="internal_error"))

    def _compare(
        self,
        requests: list[ComparisonRequest],
        timeout_s: float,
        expires_at: float,
        cancellation: Cancellation,
    ) -> dict[ComparisonRequest, ComparisonResult]:
        known = {
            request: result
            for request in requests
            if (result := self._cache.get(request)) is not None
        }
        unknown = [request for request in requests if request not in known]
        self._metrics.cache.labels("hit").inc(len(known))
        self._metrics.cache.labels("miss").inc(len(unknown))
        futures = self.pool.submit(
            unknown, timeout_s=timeout_s, expires_at=expires_at, cancellation=cancellation
        )
        fresh = {request: future.result() for request, future in zip(unknown, futures, strict=True)}
        if any(result.reason == SHUTTING_DOWN for result in fresh.values()):
            raise PlatformError(
                "verifier_unavailable", "The verifier is shutting down. Retry the request."
            )
        for request, result in fresh.items():
            # Timeouts depend on the load of the machine and must not be repeated from the cache.
            if result.is_deterministic:
                self._cache.put(request, replace(result, cpu_ms=0.0, wall_ms=0.0, queue_ms=0.0))
        return {**known, **fresh}

    def _finish(
        self, draft: _Draft, results: Mapping[ComparisonRequest, ComparisonResult]
    ) -> _Draft:
        """Return the draft with its final outcome."""
        verdict = replace(draft.verdict, verifier_version=self.version)
        if draft.request is not None:
            result = results[draft.request]
            verdict = replace(
                verdict,
                outcome=result.outcome,
                reason=result.reason,
                compare_path=result.path,
                cpu_ms=result.cpu_ms,
                wall_ms=result.wall_ms,
                queue_ms=result.queue_ms,
            )
        return replace(draft, verdict=verdict)

    def _score(
        self, drafts: list[_Draft], graders: Sequence[Grader], limits: GradingLimits
    ) -> list[Verdict]:
        """Add the scores of the graders; a response that a grader cannot score is unverifiable."""
        scorable = [draft for draft in drafts if draft.verdict.outcome.is_scored]
        graded = [
            GradedResponse(
                response=draft.item.response,
                extraction=draft.extraction,
                outcome=draft.verdict.outcome,
                reference_answer=draft.item.reference_answer,
                row=draft.item.row,
                finish_reason=draft.item.finish_reason,
                unmask_step=draft.item.unmask_step,
                num_tokens=draft.item.num_tokens,
                num_steps=draft.item.num_steps,
                max_new_tokens=draft.item.max_new_tokens,
            )
            for draft in scorable
        ]
        grades = iter(score_all(graders, graded, limits))
        return [
            _add_grades(draft.verdict, next(grades))
            if draft.verdict.outcome.is_scored
            else draft.verdict
            for draft in drafts
        ]


def _add_grades(verdict: Verdict, grades: Grades) -> Verdict:
    scores = grades.scores
    verdict = replace(
        verdict,
        grader_s=grades.seconds,
        judge_tokens=grades.judge_tokens,
        explanations=grades.explanations,
    )
    failed = next(
        ((name, score) for name, score in scores.items() if isinstance(score, GraderFailure)), None
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


def _grade(item: Item, profile: Profile, *, compares: bool) -> _Draft:
    """Grade without sympy. A response that ran out of tokens is truncated, even if it has an answer.

    Without a reference answer, or when no grader looks at correctness (`compares`), a response that
    ended is `scored`, whether an answer is found in it or not.
    """
    if item.finish_reason is FinishReason.ABORTED:
        return _Draft(item, Verdict(outcome=Outcome.ABORTED))
    extraction = extract(item.response, profile)
    if item.finish_reason is FinishReason.LENGTH:
        return _Draft(item, _make_verdict(extraction, Outcome.TRUNCATED, "length"), extraction)
    if not compares or not item.reference_answer:
        return _Draft(item, _make_verdict(extraction, Outcome.SCORED, ""), extraction)
    if extraction.failure:
        outcome = Outcome.TRUNCATED if extraction.failure in _CUT_OFF else Outcome.NO_ANSWER
        return _Draft(item, _make_verdict(extraction, outcome, extraction.failure), extraction)
    kind = item.kind or infer_answer_type(item.reference_answer)
    comparison = compare(item.reference_answer, extraction, kind, read_problem(item.row))
    request = ComparisonRequest(comparison.reference, comparison.answer, kind, profile)
    verdict = replace(
        _make_verdict(extraction, comparison.outcome or Outcome.UNVERIFIABLE, comparison.reason),
        normalized_reference_answer=comparison.reference,
        normalized_answer=comparison.answer,
        compare_path=comparison.path,
    )
    return _Draft(item, verdict, extraction, request if comparison.outcome is None else None)


def _make_verdict(extraction: Extraction, outcome: Outcome, reason: str) -> Verdict:
    return Verdict(
        outcome=outcome,
        reason=reason,
        extracted=extraction.text,
        extraction_method=extraction.method,
    )


class _Cache:
    """LRU cache of deterministic comparison results."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[ComparisonRequest, ComparisonResult] = OrderedDict()

    def get(self, request: ComparisonRequest) -> ComparisonResult | None:
        with self._lock:
            if request in self._entries:
                self._entries.move_to_end(request)
            return self._entries.get(request)

    def put(self, request: ComparisonRequest, result: ComparisonResult) -> None:
        with self._lock:
            self._entries[request] = result
            self._entries.move_to_end(request)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
