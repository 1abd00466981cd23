"""The published evaluation: its protocol as job specs, and one table of ours and theirs."""

from pathlib import Path
from typing import Any

import pytest

from services.api.cli.evaluate import Benchmark, _details, _find_files, _make_spec, table
from services.api.cli.failure import CommandError
from services.api.domain.benchmarks import BENCHMARKS, CODE_BENCHMARKS, DECODING, REPORTED
from services.common.job_decoding import resolve_decoding
from services.common.job_spec import parse_spec

FOUND: dict[str, Any] = {
    "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "pass_at_k": 0.75, "pass_at_k_low": 0.7,
    "pass_at_k_high": 0.8, "tokens_per_step": 1.96, "mean_response_length": 700.25, "truncation_rate": 0.125,
    "num_generations": 16, "num_prompts_scored": 500,
}  # fmt: skip


@pytest.mark.parametrize("decoding", DECODING)
def test_a_benchmark_is_evaluated_by_the_published_protocol(decoding: str) -> None:
    spec = parse_spec(_make_spec("GSM8K", "models/x", Path("gsm8k.jsonl"), decoding, []))

    resolved = resolve_decoding(
        spec, block_size=4, mask_token_id=9, stop_token_ids=(1,), evaluation=True
    )
    assert (resolved.temperature, resolved.top_k, resolved.top_p) == (1.0, 50, 1.0)
    assert (resolved.max_new_tokens, spec.eval.num_generations) == (8192, 16)
    assert resolved.selection == "sampled"
    assert (resolved.unmasking_strategy, resolved.tokens_per_step) == (
        f"low_confidence_{decoding}",
        1,
    )
    assert spec.prompt.template == (
        "{prompt}\nPlease reason step by step, and put your final answer within $\\boxed{}$."
    )


def test_keys_of_the_protocol_can_be_overridden() -> None:
    spec = parse_spec(
        _make_spec(
            "GSM8K",
            "models/x",
            Path("f"),
            "static",
            ["eval.num_samples=5", "trainer.precision=fp32"],
        )
    )

    assert (spec.eval.num_samples, spec.eval.num_generations, spec.trainer.precision) == (
        5,
        16,
        "fp32",
    )


def test_missing_benchmarks_are_all_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl").touch()

    with pytest.raises(CommandError) as caught:
        _find_files(tmp_path, ["GSM8K", "MATH500", "AIME24"])

    assert "math500/test.jsonl" in str(caught.value)
    assert "aime24/test.jsonl" in str(caught.value)
    assert "gsm8k" not in str(caught.value)


def test_our_rows_stand_above_the_published_ones_in_the_same_columns() -> None:
    results = {
        ("dynamic", name): {**FOUND, "accuracy": place / 10}
        for place, name in enumerate(BENCHMARKS)
    }

    ours, *published = table("models/x", results)

    assert ours == (
        "models/x",
        "dynamic",
        *(f"{10 * place}.0 · 2.0 · 700.2" for place in range(5)),
        "20.0",
    )
    assert len(published) == len(REPORTED) == 8
    assert {len(row) for row in (ours, *published)} == {2 + len(BENCHMARKS) + 1}
    assert published[-1][0] == "DiRL-8B-Instruct (published)"
    assert published[-1][2] == "83.1 · 2.0 · 2000.7"


def test_an_average_over_a_part_of_the_benchmarks_is_not_stated() -> None:
    ours = next(table("models/x", {("static", "GSM8K"): FOUND}))

    assert ours == ("models/x", "static", "-", "50.0 · 2.0 · 700.2", "-", "-", "-", "-")


def test_the_published_averages_are_those_of_the_published_scores() -> None:
    for row in REPORTED:
        assert sum(accuracy for accuracy, _, _ in row.scores) / 5 == pytest.approx(
            row.average, abs=0.11
        )


def test_details_have_intervals_and_the_share_of_truncated_responses() -> None:
    assert _details("static", "GSM8K", FOUND) == (
        "GSM8K", "static", 16, 500, "50.0 % (40.0–60.0)", "75.0 % (70.0–80.0)", "1.96", "700", "12.5 %",
    )  # fmt: skip


def test_every_benchmark_can_be_chosen() -> None:
    assert [each.value for each in Benchmark] == [*BENCHMARKS, *CODE_BENCHMARKS]


def test_programs_are_run_and_not_compared_with_a_reference_answer() -> None:
    spec = parse_spec(_make_spec("HumanEval+", "models/x", Path("f"), "static", []))
    assert [grader.type for grader in spec.reward.graders] == ["code"]
    assert "boxed" not in spec.prompt.template
    found = {name: value for name, value in FOUND.items() if not name.startswith("accuracy")}
    measured = {**found, "reward": 0.25, "reward_low": 0.2, "reward_high": 0.3}
    assert _details("static", "HumanEval+", measured)[4:6] == (
        "25.0 % (20.0–30.0)",
        "75.0 % (70.0–80.0)",
    )
