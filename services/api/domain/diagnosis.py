"""What holds a job up, in one sentence, with a change that helps; computed from its state, waits
and phase times.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from services.api.domain.certificate import is_verified
from services.api.domain.job_state import JobState
from services.common.job_metrics import JobMetric

_DOMINATES: Final = 0.6
"""Share of a step's time from which one phase counts as the bottleneck."""
_STARVED: Final = 0.5
_TRUNCATED: Final = 0.3
_UNVERIFIABLE: Final = 0.02
_GRADING_DOMINATES: Final = 0.5
_MIN_PAUSE_S: Final = 15.0
_PAUSE_STEPS: Final = 3.0


@dataclass(frozen=True)
class JobSnapshot:
    """What is known of a job at the moment."""

    state: JobState
    phase: str | None
    waiting_for: str | None
    stalled: Mapping[str, Any] | None
    error_code: str | None
    error_message: str | None
    metrics: Mapping[str, float]
    """Latest value of every metric."""
    spec: Mapping[str, Any]
    waiting_reason: str | None = None
    """Why the job cannot be placed however long it waits."""
    streams_lost: str | None = None
    """What the learner reported of streams that Redis lost a short time ago."""
    since_step_s: float = 0.0
    """Seconds since the last optimizer step, or the beginning of the stage."""
    retry_reason: str | None = None
    """Failure after which the job waits before its next attempt."""
    certificate: Mapping[str, Any] | None = None
    """The worst of all attempts."""


@dataclass(frozen=True)
class Diagnosis:
    """One finding."""

    code: str
    """queued | unplaceable | waiting | retrying | certificate_broken | restarted | stuck | failed |
    streams_lost | starved | truncation_limited | verifier_failing | verifier_bound | rollout_bound |
    sync_bound | trainer_bound | balanced | finished | starting
    """
    sentence: str
    suggestion: dict[str, Any] = field(default_factory=dict)
    """Values for keys of the job spec; empty when there is nothing to change."""


def diagnose(job: JobSnapshot) -> Diagnosis:
    """The first finding that applies, gravest first."""
    return next(found for check in _CHECKS if (found := check(job)) is not None)


def _diagnose_stall(job: JobSnapshot) -> Diagnosis | None:
    stall = job.stalled
    if stall is None:
        return None
    waits = f", waiting for {stall['waiting_for']}" if stall["waiting_for"] else ""
    return Diagnosis(
        "stuck",
        f"No sign of life since {stall['since']:.0f} (Unix time) in phase {stall['phase']}{waits}.",
    )


def _diagnose_end(job: JobSnapshot) -> Diagnosis | None:
    if job.error_code is not None:
        return Diagnosis("failed", f"{job.state}: {job.error_code}. {job.error_message}")
    if job.state.is_terminal or job.state is JobState.PAUSED:
        return Diagnosis("finished", f"The job is {job.state}; nothing runs.")
    return None


def _diagnose_retry(job: JobSnapshot) -> Diagnosis | None:
    if job.retry_reason is None:
        return None
    return Diagnosis(
        "retrying",
        f"The last attempts failed; the next one follows after a delay. {job.retry_reason}",
    )


def _diagnose_pause_of_steps(job: JobSnapshot) -> Diagnosis | None:
    """Long before a stall, no finding about the last step may pass for what happens now."""
    step_s = job.metrics.get(JobMetric.TIME_STEP_S, 0.0)
    if job.since_step_s < max(_MIN_PAUSE_S, _PAUSE_STEPS * step_s):
        return None
    return Diagnosis(
        "waiting",
        f"No step was made for {job.since_step_s:.0f} s, the phase is {job.phase or 'unknown'}; the last step took "
        f"{step_s:.1f} s. GET /v1/system says which service does not respond.",
    )


def _diagnose_certificate(job: JobSnapshot) -> Diagnosis | None:
    certificate = job.certificate
    if certificate is None or (is_verified(certificate) and certificate["moment"] != "restart"):
        return None
    if not is_verified(certificate):
        return Diagnosis(
            "certificate_broken",
            f"An attempt's certificate does not hold: {certificate['lost']} prompts lost, "
            f"{certificate['trained_twice']} trained twice, or other weights than those saved.",
        )
    reasons = "".join(f" {reason}" for reason in certificate["skipped_checkpoints"][:1])
    return Diagnosis(
        "restarted",
        f"The job began anew: no checkpoint verified, and {certificate['steps_undone']} steps were undone.{reasons}",
    )


def _diagnose_wait(job: JobSnapshot) -> Diagnosis | None:
    if job.waiting_reason is not None:
        return Diagnosis("unplaceable", job.waiting_reason)
    if job.waiting_for is not None:
        code = "queued" if job.state is JobState.QUEUED else "waiting"
        return Diagnosis(
            code,
            f"The job waits for a {job.waiting_for} service; GET /v1/system says what each does.",
        )
    if job.state is not JobState.RUNNING:
        return Diagnosis("starting", f"The job is {job.state}.")
    return None


def _diagnose_lost_streams(job: JobSnapshot) -> Diagnosis | None:
    return None if job.streams_lost is None else Diagnosis("streams_lost", job.streams_lost)


def _diagnose_verifier(job: JobSnapshot) -> Diagnosis | None:
    rate = job.metrics.get(JobMetric.REWARD_OUTCOME_UNVERIFIABLE, 0.0)
    if rate <= _UNVERIFIABLE:
        return None
    timeout = job.spec["reward"]["timeout_s"]
    return Diagnosis(
        "verifier_failing",
        f"{rate:.0%} of the last step's responses could not be graded; they are left out, never counted as wrong.",
        {"reward.timeout_s": min(60.0, 2 * timeout)},
    )


def _diagnose_starvation(job: JobSnapshot) -> Diagnosis | None:
    rate = job.metrics.get(JobMetric.REWARD_FRAC_ZERO_STD, 0.0)
    if rate < _STARVED:
        return None
    generations = job.spec["rl"]["num_generations"]
    why = (
        "the prompts are too easy or too hard"
        if JobMetric.REWARD_ACCURACY in job.metrics
        else "the graders give every response to a prompt the same score, "
        f"{job.metrics.get(JobMetric.REWARD_MEAN, 0.0):g} on the mean"
    )
    return Diagnosis(
        "starved",
        f"{rate:.0%} of the groups have equal rewards and teach nothing: {why}.",
        {"rl.num_generations": 2 * generations},
    )


def _diagnose_truncation(job: JobSnapshot) -> Diagnosis | None:
    rate = job.metrics.get(JobMetric.ROLLOUT_TRUNCATION_RATE, 0.0)
    if rate < _TRUNCATED:
        return None
    tokens = job.spec["sampling"]["max_new_tokens"]
    return Diagnosis(
        "truncation_limited",
        f"{rate:.0%} of the responses were cut at {tokens} tokens before they came to an answer.",
        {"sampling.max_new_tokens": 2 * tokens},
    )


def _diagnose_bottleneck(job: JobSnapshot) -> Diagnosis | None:
    """Which phase takes most of a step."""
    times = {metric: job.metrics.get(metric, 0.0) for metric in _BOUND}
    total = sum(times.values())
    if total <= 0:
        return None
    slowest = max(times, key=lambda metric: times[metric])
    share = times[slowest] / total
    if share < _DOMINATES:
        return None
    return _BOUND[slowest](job, share)


def _describe_rollout_bound(job: JobSnapshot, share: float) -> Diagnosis:
    grading, rollout = (
        job.metrics.get(JobMetric.TIME_REWARD_S, 0.0),
        job.metrics[JobMetric.TIME_ROLLOUT_S],
    )
    idle = job.metrics.get(JobMetric.PERF_ROLLOUT_IDLE_RATIO, 0.0)
    if grading > _GRADING_DOMINATES * rollout and idle > _GRADING_DOMINATES:
        return Diagnosis(
            "verifier_bound",
            f"Replicas idle {idle:.0%} of the rollout phase while a group is graded for {grading:.1f} s: give the "
            "reward service more workers (DIRL_REWARD_WORKERS).",
        )
    replicas = job.spec["resources"]["rollout_replicas"]
    return Diagnosis(
        "rollout_bound",
        f"Decoding takes {share:.0%} of a step while the trainer waits; more replicas shorten it.",
        {"resources.rollout_replicas": replicas + 1},
    )


def _describe_sync_bound(_job: JobSnapshot, share: float) -> Diagnosis:
    return Diagnosis(
        "sync_bound",
        f"Sending weights to the replicas takes {share:.0%} of a step; look at the network.",
    )


def _describe_trainer_bound(job: JobSnapshot, share: float) -> Diagnosis:
    tokens = job.spec["trainer"]["max_tokens_per_microbatch"]
    return Diagnosis(
        "trainer_bound",
        f"Training takes {share:.0%} of a step; larger micro-batches use the device better when memory allows.",
        {"trainer.max_tokens_per_microbatch": 2 * tokens},
    )


def _diagnose_balance(job: JobSnapshot) -> Diagnosis:
    if not job.metrics:
        return Diagnosis("starting", f"No step is done yet; phase {job.phase or 'unknown'}.")
    return Diagnosis("balanced", "No phase dominates and nothing waits.")


_BOUND: Final[Mapping[JobMetric, Callable[[JobSnapshot, float], Diagnosis]]] = {
    JobMetric.TIME_ROLLOUT_S: _describe_rollout_bound,
    JobMetric.TIME_TRAIN_S: _describe_trainer_bound,
    JobMetric.TIME_WEIGHT_SYNC_S: _describe_sync_bound,
}
_CHECKS: Final[Sequence[Callable[[JobSnapshot], Diagnosis | None]]] = (
    _diagnose_stall,
    _diagnose_end,
    _diagnose_retry,
    _diagnose_wait,
    _diagnose_lost_streams,
    _diagnose_pause_of_steps,
    _diagnose_certificate,
    _diagnose_verifier,
    _diagnose_starvation,
    _diagnose_truncation,
    _diagnose_bottleneck,
    _diagnose_balance,
)
