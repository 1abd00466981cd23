"""What limits a job, from the metrics that it reports."""

from typing import Any

import pytest

from services.api.domain.diagnosis import JobSnapshot, diagnose
from services.api.domain.job_state import JobState

SPEC = {
    "reward": {"timeout_s": 3.0},
    "rl": {"num_generations": 8},
    "sampling": {"max_new_tokens": 512},
    "resources": {"rollout_replicas": 1},
    "trainer": {"max_tokens_per_microbatch": 1024},
}
CERTIFICATE = {
    "moment": "end", "steps_undone": 0, "skipped_checkpoints": [], "issued": 8, "trained": 8, "dropped": {},
    "open": 0, "lost": 0, "trained_twice": 0, "digest_before": "d", "digest_after": "d",
}  # fmt: skip
HEALTHY = {"time/rollout_s": 5.0, "time/train_s": 5.0, "time/weight_sync_s": 1.0}


def snapshot(metrics: dict[str, float] | None = None, **values: Any) -> JobSnapshot:
    given = {
        "state": JobState.RUNNING,
        "phase": "rollout",
        "waiting_for": None,
        "stalled": None,
        "error_code": None,
        "error_message": None,
        "metrics": HEALTHY if metrics is None else metrics and {**HEALTHY, **metrics},
        "spec": SPEC,
    }
    return JobSnapshot(**{**given, **values})


@pytest.mark.parametrize(
    ("seen", "code", "suggestion"),
    [
        (snapshot(), "balanced", {}),
        (snapshot({"time/rollout_s": 50.0}), "rollout_bound", {"resources.rollout_replicas": 2}),
        (
            snapshot(
                {"time/rollout_s": 50.0, "time/reward_s": 40.0, "perf/rollout_idle_ratio": 0.8}
            ),
            "verifier_bound",
            {},
        ),
        (
            snapshot({"time/train_s": 50.0}),
            "trainer_bound",
            {"trainer.max_tokens_per_microbatch": 2048},
        ),
        (snapshot({"time/weight_sync_s": 50.0}), "sync_bound", {}),
        (snapshot({"reward/frac_zero_std": 0.9}), "starved", {"rl.num_generations": 16}),
        (
            snapshot(state=JobState.QUEUED, waiting_for="rollout", waiting_reason="It needs 4."),
            "unplaceable",
            {},
        ),
        (
            snapshot({"reward/frac_zero_std": 0.9}, streams_lost="Redis lost 3 prompts."),
            "streams_lost",
            {},
        ),
        (snapshot({"reward/frac_zero_std": 0.9}, since_step_s=60.0), "waiting", {}),
        (snapshot({"time/step_s": 100.0}, since_step_s=60.0), "balanced", {}),
        (
            snapshot(
                state=JobState.PROVISIONING, retry_reason="storage_unavailable: It is read-only."
            ),
            "retrying",
            {},
        ),
        (snapshot(certificate=CERTIFICATE), "balanced", {}),
        (snapshot(certificate={**CERTIFICATE, "lost": 1}), "certificate_broken", {}),
        (
            snapshot(certificate={**CERTIFICATE, "moment": "restart", "digest_before": None}),
            "restarted",
            {},
        ),
        (
            snapshot({"rollout/truncation_rate": 0.5}),
            "truncation_limited",
            {"sampling.max_new_tokens": 1024},
        ),
        (
            snapshot({"reward/outcome/unverifiable": 0.2}),
            "verifier_failing",
            {"reward.timeout_s": 6.0},
        ),
        (snapshot(stalled={"phase": "train", "waiting_for": None, "since": 1e9}), "stuck", {}),
        (snapshot(state=JobState.QUEUED, waiting_for="trainer"), "queued", {}),
        (snapshot(waiting_for="rollout"), "waiting", {}),
        (
            snapshot(
                state=JobState.FAILED, error_code="nan_loss", error_message="The loss is NaN."
            ),
            "failed",
            {},
        ),
        (snapshot(state=JobState.SUCCEEDED), "finished", {}),
        (snapshot(state=JobState.PROVISIONING), "starting", {}),
        (snapshot(metrics={}, phase="loading"), "starting", {}),
    ],
)
def test_the_gravest_finding_is_told_with_what_helps(
    seen: JobSnapshot, code: str, suggestion: dict[str, Any]
) -> None:
    found = diagnose(seen)

    assert (found.code, found.suggestion) == (code, suggestion)
    assert found.sentence.endswith(".")


def test_a_failing_verifier_is_told_before_the_starvation_that_it_causes() -> None:
    seen = snapshot({"reward/outcome/unverifiable": 0.2, "reward/frac_zero_std": 0.9})

    assert diagnose(seen).code == "verifier_failing"


def test_starvation_speaks_of_prompts_only_where_correctness_is_graded() -> None:
    rewards = snapshot({"reward/frac_zero_std": 0.9, "reward/mean": 0.25})
    assert (
        "give every response to a prompt the same score, 0.25 on the" in diagnose(rewards).sentence
    )
    compared = snapshot({"reward/frac_zero_std": 0.9, "reward/accuracy": 0.25})
    assert "the prompts are too easy or too hard" in diagnose(compared).sentence
