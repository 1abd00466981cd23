"""Whole reinforcement attempts: a real learner, replica, engine and Redis; only the verdicts are
scripted.
"""

import threading
from pathlib import Path
from typing import Any

import pytest

from services.common.attempt_result import AttemptResult
from services.common.checkpoint.format import list_checkpoints, read_manifest
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.model.tiny import make_tiny_model
from services.common.trajectory import Outcome, PromptTask, Purpose, Trajectory
from services.trainer.learner.lifecycle import StopSignal
from tests.support.learners import journal_of, learner_request, moved_digest, run_here
from tests.support.replicas import GradeResponse, RealReplica, by_index, real_replica
from tests.support.trainer import of_kind, wait_until, write_rows

STEPS = 2
ROWS = [{"prompt": f"{n}+1=?", "answer": str(n + 1)} for n in range(8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0, hidden_size=16, layers=1, heads=2)
    return path


def spec(directory: Path, **changes: Any) -> dict[str, Any]:
    directory.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {
        "model": "tiny",
        "method": "rl",
        "training_file": str(write_rows(directory / "train.jsonl", ROWS)),
        "seed": 3,
        "optim": {"lr": 1e-2},
        "rl": {
            "steps": STEPS,
            "prompts_per_step": 2,
            "num_generations": 2,
            "max_resample_rounds": 3,
        },
        "sampling": {"max_new_tokens": 8},
        "checkpoint": {"interval_steps": 1},
    }
    return {**fields, **changes}


class Platform:
    """A model, a replica and a Redis; jobs run on them one after the other."""

    def __init__(self, replica: RealReplica, address: str, redis_url: str, model: Path) -> None:
        self.replica, self.address, self.redis_url, self.model = replica, address, redis_url, model

    def run(
        self,
        directory: Path,
        *,
        job_id: str = "job_1",
        attempt: int = 1,
        stop: StopSignal | None = None,
        **changes: Any,
    ) -> AttemptResult:
        """One attempt in `directory / job`."""
        self.replica.assign(job_id, attempt, self.model)
        request = learner_request(
            directory / "job",
            spec(directory, **changes),
            job_id=job_id,
            attempt=attempt,
            model_path=self.model,
            redis_url=self.redis_url,
            rollout_addresses=(self.address,),
            prompts_stream=f"dirl:{job_id}:{attempt}:prompts",
            groups_stream=f"dirl:{job_id}:{attempt}:groups",
        )
        return run_here(request, stop or StopSignal())


def run_with(
    redis_url: str, model: Path, grade_response: GradeResponse, directory: Path, **changes: Any
) -> AttemptResult:
    with real_replica(redis_url, grade_response) as (replica, address):
        return Platform(replica, address, redis_url, model).run(directory, **changes)


def test_a_job_learns_drops_groups_without_signal_and_refills(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    with real_replica(redis_url) as (replica, address):
        result = Platform(replica, address, redis_url, model).run(tmp_path)
        held = replica.worker.replica.weights

    assert result.state == "succeeded", result.error_message
    events = journal_of(tmp_path / "job")
    groups = of_kind(events, EventType.TRAJECTORIES)
    positions = [
        (data["step"], data["group"]["ledger_position"], data["disposition"]) for data in groups
    ]
    # Positions 2 and 5 are graded alike by `by_index`, so they are dropped and replaced by the next
    # ones.
    assert positions == [
        (1, 0, "trained"),
        (1, 1, "trained"),
        (2, 2, "dropped_zero_variance"),
        (2, 3, "trained"),
        (2, 4, "trained"),
    ]
    assert [data["advantages"] for data in groups[:2]] == [[1.0, -1.0], [1.0, -1.0]]
    # The weights after the last step are in the checkpoint; the replica did not need them.
    assert held is not None
    assert held.version == STEPS - 1


def test_every_step_reports_what_the_vocabulary_names(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    run_with(redis_url, model, by_index, tmp_path)

    steps = [
        data["values"]
        for data in of_kind(journal_of(tmp_path / "job"), EventType.METRICS)
        if "train/loss" in data["values"]
    ]
    wanted = {
        "train/loss", "train/policy_loss", "train/entropy", "train/grad_norm", "train/lr", "train/clip_fraction",
        "train/is_ratio_mean", "train/is_ratio_max", "train/logprob_abs_diff_mean", "train/logprob_abs_diff_max",
        "train/mismatch_kl", "train/global_step",
        "reward/mean", "reward/std", "reward/min", "reward/max", "reward/accuracy/mean", "reward/accuracy",
        "reward/pass_at_k", "reward/frac_zero_std", "reward/frac_all_correct", "reward/frac_all_wrong",
        "reward/outcome/correct", "reward/latency_p50_s", "reward/latency_p95_s", "reward/latency_p99_s",
        "rollout/response_length_mean", "rollout/response_length_p50", "rollout/response_length_p95",
        "rollout/response_length_max", "rollout/truncation_rate", "rollout/unique_ratio",
        "diffusion/tokens_per_step", "diffusion/steps_per_block", "diffusion/confidence_mean", "diffusion/threshold",
        "diffusion/masked_tokens_trained",
        "staleness/mean", "staleness/max", "staleness/dropped_groups", "staleness/version_span_max",
        "time/step_s", "time/rollout_s", "time/reward_s", "time/train_s", "time/weight_sync_s", "time/wait_for_batch_s",
        "perf/rollout_idle_ratio", "perf/trainer_idle_ratio", "perf/rollout_tokens_per_s", "perf/trainer_tokens_per_s",
        "perf/peak_memory_gib", "perf/padding_ratio",
        "weights/version", "weights/sync_bytes", "weights/sync_s", "weights/digest_ok",
    }  # fmt: skip
    assert len(steps) == STEPS
    assert all(wanted <= values.keys() for values in steps), wanted - steps[0].keys()
    assert ["time/wait_for_trainer_s" in values for values in steps] == [False] + [True] * (
        STEPS - 1
    )
    # Strictly on-policy: the trainer's log-probabilities are the engine's.
    assert all(values["train/is_ratio_mean"] == pytest.approx(1.0, abs=1e-5) for values in steps)
    assert steps[1]["reward/frac_zero_std"] == pytest.approx(1 / 3)
    assert steps[1]["rollout/resample_rounds"] == 1


def test_two_runs_of_one_spec_give_the_same_weights_at_every_step(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    with real_replica(redis_url) as (replica, address):
        platform = Platform(replica, address, redis_url, model)
        platform.run(tmp_path / "one", job_id="job_1")
        platform.run(tmp_path / "two", job_id="job_2")

    digests = [
        [
            data["weight_digest"]
            for data in of_kind(journal_of(tmp_path / run / "job"), EventType.CHECKPOINT)
        ]
        for run in ("one", "two")
    ]
    assert len(set(digests[0])) == STEPS
    assert digests[0] == digests[1]


def test_a_job_whose_replicas_take_turns_with_the_learner_learns_the_same(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    run_with(redis_url, model, by_index, tmp_path / "apart")

    with real_replica(redis_url) as (replica, address):
        platform = Platform(replica, address, redis_url, model)
        result = platform.run(tmp_path / "together", job_id="job_2", resources={"colocate": True})
        state = replica.worker.replica.state

    assert result.state == "succeeded", result.error_message
    assert state == "sleeping"  # no step needed the last weights
    assert moved_digest(tmp_path / "together" / "job", STEPS) == moved_digest(
        tmp_path / "apart" / "job", STEPS
    )
    metrics = of_kind(journal_of(tmp_path / "together" / "job"), EventType.METRICS)
    assert any("perf/rollout_bytes_given_back" in data["values"] for data in metrics)


def test_a_job_stopped_while_it_waits_for_groups_repeats_the_step_and_loses_no_prompt(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    stop = StopSignal()

    def stop_in_the_second_step(task: PromptTask, trajectory: Trajectory) -> Outcome:
        if task.attempt == 1 and task.ledger_position == 3:
            stop.request()
        return by_index(task, trajectory)

    with real_replica(redis_url, stop_in_the_second_step) as (replica, address):
        platform = Platform(replica, address, redis_url, model)
        first = platform.run(tmp_path, stop=stop)
        second = platform.run(tmp_path, attempt=2)
    with real_replica(redis_url) as (replica, address):
        Platform(replica, address, redis_url, model).run(tmp_path / "whole", job_id="job_2")

    certificate, at_end = of_kind(journal_of(tmp_path / "job", 2), EventType.CERTIFICATE)
    assert (certificate["moment"], at_end["moment"]) == ("resume", "end")
    assert (first.state, second.state) == ("stopped", "succeeded")
    assert {name: certificate[name] for name in ("resumed_from", "trained", "lost", "trained_twice")} == {
        "resumed_from": 1, "trained": 2, "lost": 0, "trained_twice": 0
    }  # fmt: skip
    assert moved_digest(tmp_path / "job", STEPS) == moved_digest(tmp_path / "whole" / "job", STEPS)


def test_a_stopped_job_makes_the_choices_of_its_sampler_as_one_that_never_stopped(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    changes = {"curriculum": {"sampler": "difficulty", "candidates": 3}}
    rl = {"steps": 3, "prompts_per_step": 2, "num_generations": 2, "dynamic_sampling": False}
    stop = StopSignal()

    def stop_in_the_second_step(task: PromptTask, trajectory: Trajectory) -> Outcome:
        if task.attempt == 1 and task.ledger_position == 3:
            stop.request()
        return by_index(task, trajectory)

    with real_replica(redis_url, stop_in_the_second_step) as (replica, address):
        platform = Platform(replica, address, redis_url, model)
        platform.run(tmp_path, stop=stop, rl={**rl, **changes})
        platform.run(tmp_path, attempt=2, rl={**rl, **changes})
    with real_replica(redis_url) as (replica, address):
        whole = Platform(replica, address, redis_url, model)
        whole.run(tmp_path / "whole", job_id="job_2", rl={**rl, **changes})

    def results(directory: Path, attempt: int) -> list[Any]:
        events = of_kind(journal_of(directory, attempt), EventType.PROMPT_RESULTS)
        return [result for data in events for result in data["results"]]

    expected = results(tmp_path / "whole" / "job", 1)
    assert results(tmp_path / "job", 1) + results(tmp_path / "job", 2) == expected
    assert len(expected) == 6
    *_, at_end = of_kind(journal_of(tmp_path / "job", 2), EventType.CERTIFICATE)
    assert (at_end["sampler"], at_end["miscounted"], at_end["attempts"]) == ("difficulty", 0, 12)
    assert at_end["successes"] == sum(successes for _, _, successes, _ in expected)


@pytest.mark.parametrize("was_said", [False, True])
def test_an_evaluation_that_a_killed_learner_did_not_report_is_made_by_the_next_attempt(
    redis_url: str, model: Path, tmp_path: Path, was_said: bool
) -> None:
    stop = StopSignal()

    def stop_in_the_second_step(task: PromptTask, trajectory: Trajectory) -> Outcome:
        if task.attempt == 1 and task.min_weight_version == 1 and task.purpose is not Purpose.EVAL:
            stop.request()
        return by_index(task, trajectory)

    validation = write_rows(tmp_path / "validation.jsonl", ROWS[:2])
    changes = {"validation_file": str(validation), "eval": {"interval_steps": 1}}
    with real_replica(redis_url, stop_in_the_second_step) as (replica, address):
        platform = Platform(replica, address, redis_url, model)
        platform.run(tmp_path, stop=stop, **changes)
        if not was_said:
            journal = tmp_path / "job" / "journal" / "attempt-0001.jsonl"
            lines = journal.read_text().splitlines(keepends=True)
            saved = next(n for n, line in enumerate(lines) if '"type":"checkpoint"' in line)
            journal.write_text("".join(lines[: saved + 1]))
        platform.run(tmp_path, attempt=2, **changes)

    said = [
        [data["step"] for data in of_kind(journal_of(tmp_path / "job", n), EventType.EVALUATION)]
        for n in (1, 2)
    ]
    assert said == ([[0, 1], [2]] if was_said else [[0], [1, 2]])


def test_a_replica_that_failed_gets_the_weights_again_and_no_prompt_is_lost(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    failures = iter([RuntimeError("The device fell off the bus.")])

    def fail_once(task: PromptTask, trajectory: Trajectory) -> Outcome:
        for failure in failures:
            raise failure
        return by_index(task, trajectory)

    result = run_with(redis_url, model, fail_once, tmp_path)

    assert result.state == "succeeded", result.error_message
    events = journal_of(tmp_path / "job")
    phases = [data["phase"] for data in of_kind(events, EventType.PHASE)]
    assert phases.count("weight_sync") == STEPS + 1
    trained = [data["group"]["ledger_position"] for data in of_kind(events, EventType.TRAJECTORIES)]
    assert trained == [0, 1, 2, 3, 4]


def test_evaluation_reports_accuracy_with_its_interval_before_and_after(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    def right_for_even_rows(task: PromptTask, trajectory: Trajectory) -> Outcome:
        if task.purpose.value == "eval":
            return Outcome.CORRECT if task.ledger_position % 2 == 0 else Outcome.UNVERIFIABLE
        return by_index(task, trajectory)

    validation = str(write_rows(tmp_path / "validation.jsonl", ROWS))
    changes = {"eval": {"num_samples": 6}, "reward": {"max_unverifiable_rate": 0.5}}
    run_with(redis_url, model, right_for_even_rows, tmp_path, validation_file=validation, **changes)

    evaluations = of_kind(journal_of(tmp_path / "job"), EventType.EVALUATION)
    assert [(data["step"], data["stage"]) for data in evaluations] == [(0, "rl"), (STEPS, "rl")]
    results = evaluations[0]["results"]
    # Three of six prompts could be graded, all of them right: Wilson's interval of 3/3.
    assert (results["accuracy"], results["num_unverifiable"], results["num_prompts_scored"]) == (
        1.0,
        3,
        3,
    )
    assert results["accuracy_low"] == pytest.approx(0.438503, abs=1e-6)
    assert results["accuracy_high"] == 1.0
    assert results["outcomes"]["unverifiable"] == 0.5


def test_other_thresholds_are_measured_when_a_stage_ends_and_the_jobs_own_comes_last(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    decoded: list[float] = []

    def note(task: PromptTask, trajectory: Trajectory) -> Outcome:
        if task.purpose.value == "eval":
            decoded.append(task.decoding.confidence_threshold)
        return by_index(task, trajectory)

    validation = str(write_rows(tmp_path / "validation.jsonl", ROWS))
    wanted = {"num_samples": 2, "confidence_thresholds": [0.0, 1.0]}
    run_with(redis_url, model, note, tmp_path, validation_file=validation, eval=wanted)

    events = journal_of(tmp_path / "job")
    evaluations = of_kind(events, EventType.EVALUATION)
    others = [
        data["results"].get("decoding", {}).get("confidence_threshold") for data in evaluations
    ]
    assert [data["step"] for data in evaluations] == [0, STEPS, STEPS, STEPS]
    assert others == [None, 0.0, 1.0, None]
    assert decoded == [0.9] * 2 + [0.0] * 2 + [1.0] * 2 + [0.9] * 2
    # The curve is the job's own.
    curve = [
        data["step"]
        for data in of_kind(events, EventType.METRICS)
        if "eval/validation/avg@1" in data["values"]
    ]
    assert curve == [0, STEPS]


@pytest.mark.parametrize(
    ("own", "counting"),
    [("low_confidence_dynamic", "low_confidence_static"), ("sequential", "sequential")],
)
def test_other_numbers_of_steps_are_measured_by_a_rule_that_counts_them(
    redis_url: str, model: Path, tmp_path: Path, own: str, counting: str
) -> None:
    decoded: list[tuple[str, int, int]] = []

    def note(task: PromptTask, trajectory: Trajectory) -> Outcome:
        if task.purpose.value == "eval" and task.min_weight_version == STEPS:
            decoding = task.decoding
            decoded.append(
                (
                    decoding.unmasking_strategy.value,
                    decoding.denoising_steps,
                    decoding.tokens_per_step,
                )
            )
        return by_index(task, trajectory)

    validation = str(write_rows(tmp_path / "validation.jsonl", ROWS))
    changes = {
        "diffusion": {"unmasking_strategy": own},
        "eval": {"num_samples": 1, "denoising_steps": [1, 2]},
    }
    run_with(redis_url, model, note, tmp_path, validation_file=validation, **changes)

    evaluations = of_kind(journal_of(tmp_path / "job"), EventType.EVALUATION)
    others = [decoding for data in evaluations if (decoding := data["results"].get("decoding"))]
    assert others == [
        {"unmasking_strategy": counting, "denoising_steps": steps} for steps in (1, 2)
    ]
    assert decoded == [(counting, 1, 4), (counting, 2, 2), (own, 4, 1)]


def test_a_pipeline_evaluates_every_version_once_and_reports_the_held_out_loss(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    rows = [{**row, "completion": row["answer"]} for row in ROWS]
    training = str(write_rows(tmp_path / "both.jsonl", rows))
    changes = {"method": "pipeline", "training_file": training, "validation_file": training}
    result = run_with(redis_url, model, by_index, tmp_path, sft={"batch_size": 4}, **changes)

    assert result.state == "succeeded", result.error_message
    events = journal_of(tmp_path / "job")
    evaluations = of_kind(events, EventType.EVALUATION)
    # Two supervised steps, then two of reinforcement; the last evaluation is the evaluation
    # stage's.
    assert [(data["step"], data["stage"]) for data in evaluations] == [(2, "sft"), (4, "eval")]
    assert 0 < evaluations[0]["results"]["loss"] < 20
    assert "loss" not in evaluations[1]["results"]
    progress = of_kind(events, EventType.PROGRESS)[-1]
    assert (progress["step"], progress["total_steps"]) == (4, 4)


def test_a_job_that_cannot_learn_ends_with_its_reason(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    result = run_with(redis_url, model, lambda task, trajectory: Outcome.INCORRECT, tmp_path)

    assert (result.state, result.error_code, result.retryable) == (
        "failed",
        "no_learning_signal",
        False,
    )


def test_a_job_that_has_nothing_more_to_learn_keeps_the_steps_that_it_made(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    def grade_response(task: PromptTask, trajectory: Trajectory) -> Outcome:
        first_step = task.min_weight_version == 0
        return by_index(task, trajectory) if first_step else Outcome.CORRECT

    result = run_with(
        redis_url, model, grade_response, tmp_path, checkpoint={"interval_steps": 1000}
    )

    assert (result.state, result.error_code) == ("failed", "no_learning_signal")
    newest = list_checkpoints(tmp_path / "job" / "checkpoints")[-1]
    assert read_manifest(newest).global_step == 1


def test_a_verifier_that_fails_ends_the_attempt_with_samples_and_a_checkpoint_to_resume_from(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    def grade_response(task: PromptTask, _trajectory: Trajectory) -> Outcome:
        first_step = task.min_weight_version == 0
        return Outcome.UNVERIFIABLE if not first_step else by_index(task, _trajectory)

    result = run_with(redis_url, model, grade_response, tmp_path)

    assert (result.state, result.error_code) == ("failed", "reward_error_rate")
    events = journal_of(tmp_path / "job")
    shown = [
        data
        for data in of_kind(events, EventType.TRAJECTORIES)
        if data["disposition"] == "dropped_error"
    ]
    assert shown
    assert {reward for data in shown for reward in data["rewards"]} == {None}
    assert {advantage for data in shown for advantage in data["advantages"]} == {None}
    assert of_kind(events, EventType.CHECKPOINT)[-1]["step"] == 1
    assert [data["step"] for data in of_kind(events, EventType.METRICS)] == [1]


def test_an_evaluation_with_few_grades_has_samples_in_place_of_an_accuracy(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    def grade_response(task: PromptTask, trajectory: Trajectory) -> Outcome:
        return Outcome.UNVERIFIABLE if task.purpose is Purpose.EVAL else by_index(task, trajectory)

    validation = str(write_rows(tmp_path / "validation.jsonl", ROWS))
    result = run_with(redis_url, model, grade_response, tmp_path, validation_file=validation)

    assert (result.state, result.error_code) == ("failed", "reward_error_rate")
    assert result.error_message.startswith(f"Cannot evaluate: {len(ROWS)} of {len(ROWS)} responses")
    events = journal_of(tmp_path / "job")
    assert of_kind(events, EventType.EVALUATION) == []
    shown = of_kind(events, EventType.TRAJECTORIES)
    assert {(data["purpose"], data["disposition"]) for data in shown} == {("eval", "dropped_error")}
    assert {reward for data in shown for reward in data["rewards"]} == {None}


def test_a_learner_waits_for_a_replica_that_comes_late(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    with real_replica(redis_url) as (replica, address):
        platform = Platform(replica, address, redis_url, model)
        assign, replica.assign = replica.assign, lambda *_: None  # type: ignore[method-assign]

        def say_waiting() -> bool:
            phases = of_kind(journal_of(tmp_path / "job"), EventType.PHASE)
            return any(data["waiting_for"] == "rollout" for data in phases)

        def come_late() -> None:
            wait_until(say_waiting, "the learner says that it waits")
            assign("job_1", 1, model)

        thread = threading.Thread(target=come_late)
        thread.start()
        result = platform.run(tmp_path)
        thread.join()

    assert result.state == "succeeded", result.error_message


def test_a_redis_that_is_away_ends_the_attempt_but_not_the_job(
    model: Path, redis_url: str, tmp_path: Path
) -> None:
    with real_replica(redis_url) as (replica, address):
        platform = Platform(replica, address, "redis://127.0.0.1:1/0", model)
        result = platform.run(tmp_path)

    error = PlatformError(result.error_code, result.error_message)
    assert (result.state, error.code, result.retryable) == ("failed", "queue_unavailable", True)


def test_every_rule_of_the_objective_together_trains_and_reports(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    rl = {
        "steps": STEPS, "prompts_per_step": 2, "num_generations": 2, "min_groups_per_step": 2,
        "dynamic_sampling": False, "estimator": "all_candidates", "ratio": "proximal", "num_iterations": 2,
        "minibatches": 2, "kl_beta": 0.1,
    }  # fmt: skip

    result = run_with(
        redis_url, model, by_index, tmp_path, rl=rl, diffusion={"selection": "sampled"}
    )

    assert result.state == "succeeded", result.error_message
    steps = [data["values"] for data in of_kind(journal_of(tmp_path / "job"), EventType.METRICS)]
    first, second = (values for values in steps if "train/updates" in values)
    assert first["train/updates"] == 4.0
    assert first["train/kl"] > 0.0
    assert second["train/kl"] > 0.0
    assert 0.0 <= first["train/selection_drift"] <= 1.0
    assert first["train/is_capped_fraction"] == 0.0
    assert (tmp_path / "job" / "reference" / "model.safetensors").is_file()
