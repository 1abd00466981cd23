"""The published evaluation protocol as a job spec."""

import pytest

from services.api.domain.benchmarks import BENCHMARKS, PROMPT, REPORTED, benchmark_spec
from services.common.job_spec import parse_spec


@pytest.mark.parametrize(
    ("decoding", "diffusion"),
    [
        ("static", {"unmasking_strategy": "low_confidence_static", "selection": "sampled"}),
        (
            "dynamic",
            {
                "unmasking_strategy": "low_confidence_dynamic",
                "confidence_threshold": 0.9,
                "selection": "sampled",
            },
        ),
    ],
)
def test_the_protocol_samples_sixteen_responses_of_up_to_8192_tokens(
    decoding: str, diffusion: dict[str, object]
) -> None:
    spec = benchmark_spec("GSM8K", "/models/m", "file_1", decoding)

    assert spec == {
        "model": "/models/m",
        "method": "eval",
        "validation_file": "file_1",
        "suffix": f"eval-{decoding}",
        "prompt": {"template": PROMPT, "max_prompt_tokens": 1024},
        "diffusion": diffusion,
        "eval": {"num_generations": 16, "temperature": 1.0, "top_k": 50, "max_new_tokens": 8192},
        "trainer": {"seq_len": 9216, "precision": "bf16"},
    }
    assert parse_spec(spec).eval.top_k == 50


def test_every_reported_row_has_a_score_for_each_benchmark_and_their_mean() -> None:
    for row in REPORTED:
        accuracies = [accuracy for accuracy, _, _ in row.scores]
        assert len(accuracies) == len(BENCHMARKS)
        assert sum(accuracies) / len(accuracies) == pytest.approx(row.average, abs=0.11)
