"""What a job needs, how long it takes, and what speaks against it before it runs."""

from dataclasses import replace
from typing import Any

import pytest

from services.api.domain.estimate import (
    Probe,
    ResourceEstimate,
    count_steps,
    estimate_resources,
    estimate_seconds,
    find_misfits,
    find_objections,
)
from services.common.job_spec import JobSpec

FITS = ResourceEstimate(
    parameters=10,
    memory_bytes=160,
    activation_bytes=40,
    memory_total_bytes=200,
    disk_bytes=360,
    disk_free_bytes=360,
)


def spec_of(method: str = "rl", **sections: Any) -> JobSpec:
    file = "validation_file" if method == "eval" else "training_file"
    return JobSpec.model_validate({"model": "m", "method": method, file: "f", **sections})


@pytest.mark.parametrize(
    ("spec", "memory", "disk"),
    [
        # fp32 weights, gradients and two moments; checkpoints without gradients: two kept, one new.
        (spec_of(checkpoint={"keep_last": 2}), 16, 12 * 3),
        # Adapters: the weights alone.
        (spec_of(checkpoint={"keep_last": 2}, lora={"rank": 4}), 4, 4 * 3),
        (spec_of("sft", checkpoint={"keep_last": 1}), 16, 12 * 2),
        # An evaluation writes no checkpoint.
        (spec_of("eval"), 4, 0),
    ],
    ids=["rl", "lora", "sft", "eval"],
)
def test_memory_and_disk_follow_from_what_is_trained(spec: JobSpec, memory: int, disk: int) -> None:
    estimate = estimate_resources(1000, 77, spec, 5, 9)

    assert estimate == ResourceEstimate(
        parameters=1000,
        memory_bytes=memory * 1000,
        activation_bytes=77,
        memory_total_bytes=5,
        disk_bytes=disk * 1000,
        disk_free_bytes=9,
    )


def test_steps_of_a_stage_are_whole_batches_over_all_epochs() -> None:
    sft = {"epochs": 3, "batch_size": 4}

    assert count_steps(spec_of("sft", sft=sft), 6) == {"sft": 5}
    assert count_steps(spec_of("sft", sft={**sft, "max_steps": 4}), 6) == {"sft": 4}
    assert count_steps(spec_of("sft", sft={**sft, "max_steps": 9}), 6) == {"sft": 5}
    assert count_steps(spec_of(rl={"steps": 7}), 6) == {"rl": 7}
    assert count_steps(spec_of("eval"), 6) == {}
    assert count_steps(spec_of("pipeline", validation_file="v", sft=sft, rl={"steps": 7}), 6) == {
        "sft": 5,
        "rl": 7,
    }


def test_time_follows_the_work_of_a_step() -> None:
    def rl(prompts: int, generations: int, tokens: int) -> JobSpec:
        sections = {"prompts_per_step": prompts, "num_generations": generations}
        return spec_of(
            rl={**sections, "min_groups_per_step": 1}, sampling={"max_new_tokens": tokens}
        )

    # Twice the prompts, three times the responses, half of the tokens.
    assert estimate_seconds(rl(4, 6, 32), 10, rl(2, 2, 64), 5.0) == pytest.approx(150.0)
    large, small = (spec_of("sft", sft={"batch_size": size}) for size in (8, 2))
    assert estimate_seconds(large, 3, small, 2.0) == pytest.approx(24.0)


def misfits(**changes: Any) -> list[tuple[str, str]]:
    found = find_misfits(replace(FITS, **changes), spec_of(checkpoint={"keep_last": 2}))
    return [(problem.path, problem.message) for problem in found]


def test_what_fits_exactly_fits() -> None:
    assert misfits() == misfits(memory_total_bytes=160) == misfits(memory_total_bytes=None) == []


def test_a_model_larger_than_the_memory_and_checkpoints_larger_than_the_disk_are_named() -> None:
    [(path, message)] = misfits(memory_total_bytes=159)
    assert path == "model"
    assert "10 parameters take 160 bytes" in message
    assert "has 159" in message

    [(path, message)] = misfits(disk_free_bytes=359)
    assert path == "checkpoint.keep_last"
    assert "2 checkpoints and a new one take 360 bytes" in message
    assert "359 are free" in message

    assert [path for path, _ in misfits(memory_total_bytes=1, disk_free_bytes=1)] == [
        "model",
        "checkpoint.keep_last",
    ]


def objections(
    probe: Probe | None = None, spec: JobSpec | None = None, **changes: Any
) -> list[str]:
    found = find_objections(replace(FITS, **changes), probe, spec or spec_of())
    return [f"{problem.path}: {problem.message}" for problem in found]


def test_a_pass_that_does_not_fit_beside_the_weights_is_an_objection() -> None:
    assert objections() == []
    assert [text.split(":")[0] for text in objections(disk_free_bytes=359)] == [
        "checkpoint.keep_last"
    ]
    [text] = objections(memory_total_bytes=199)
    assert text.startswith("trainer.max_tokens_per_microbatch: ")
    assert "40 bytes" in text
    assert "160" in text
    assert "199" in text
    assert len(objections(memory_total_bytes=160)) == 1
    # The weights alone do not fit: that is said instead.
    assert [text.split(":")[0] for text in objections(memory_total_bytes=159)] == ["model"]
    assert objections(activation_bytes=None, memory_total_bytes=199) == []
    assert objections(memory_total_bytes=None) == []


def test_a_probe_without_any_signal_is_an_objection_under_dynamic_sampling() -> None:
    silent = Probe(
        prompts=8, generations=4, zero_variance=8, reward_mean=0.6, all_correct=5, all_wrong=3
    )
    heard = replace(silent, zero_variance=7, all_wrong=2)
    static = spec_of(rl={"dynamic_sampling": False})

    assert (silent.zero_variance_rate, heard.zero_variance_rate) == (1.0, 0.875)
    [text] = objections(silent)
    assert text.startswith("rl: ")
    assert "all 8 groups" in text
    assert "5 all correct, 3 all wrong" in text
    assert objections(heard) == objections(silent, static) == []


def test_the_probe_counts_what_dynamic_sampling_looks_at() -> None:
    shaped = Probe(
        prompts=8, generations=4, zero_variance=0, reward_mean=0.6, all_correct=5, all_wrong=3
    )
    by_correctness = spec_of(rl={"dynamic_sampling": "correctness"})
    assert objections(shaped) == []
    assert len(objections(shaped, by_correctness)) == 1
    assert len(objections(replace(shaped, zero_variance=8, all_wrong=2), by_correctness)) == 0


def test_a_probe_of_a_job_without_correctness_speaks_of_rewards() -> None:
    silent = Probe(prompts=2, generations=4, zero_variance=2, reward_mean=0.25)
    [text] = objections(silent)
    assert "all 2 groups of a probe had equal rewards (mean 0.25)" in text
    assert "correct" not in text


def test_a_probe_that_could_not_be_graded_says_why() -> None:
    failed = Probe(
        prompts=2, generations=4, zero_variance=2, reward_mean=None, ungraded=("grader:own:x",) * 8
    )
    [text] = objections(failed)
    assert text.startswith("reward.graders: cannot train: 8 of 8 responses of a probe could not")
    assert "(grader:own:x)" in text
