"""Candidates: the distribution they are drawn from, and what is never drawn."""

from typing import Any

import pytest
import torch

from services.common.diffusion.sampling import sample_candidates, scaled_logprobs, truncate
from tests.support.tiny_models import decoding

PROBABILITIES = [0.05, 0.4, 0.0, 0.3, 0.25]


def _kept(**changes: Any) -> list[int]:
    cut = truncate(decoding(**changes), torch.tensor([[PROBABILITIES]]).log())
    return cut.isfinite()[0, 0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, [0, 1, 3, 4]),
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 99}, [0, 1, 3, 4]),
        ({"top_p": 0.01}, [1]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.45}, [1, 3]),
        ({"top_p": 0.8}, [1, 3, 4]),
        ({"top_k": 2, "top_p": 0.5}, [1]),
    ],
)
def test_truncation_keeps_the_likeliest(changes: dict[str, Any], kept: list[int]) -> None:
    assert _kept(**changes) == kept


def test_an_evenly_spaced_grid_of_uniforms_reproduces_the_distribution() -> None:
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    logprobs = torch.tensor(PROBABILITIES).log().expand(1, 1000, 5)

    drawn = sample_candidates(decoding(), logprobs, grid[None])

    assert torch.bincount(drawn[0], minlength=5).tolist() == [50, 400, 0, 300, 250]


@pytest.mark.parametrize("uniform", [2.0**-49, 0.5, 1 - 2.0**-49])
@pytest.mark.parametrize("vocab_size", [7, 50_000])
def test_no_uniform_number_reaches_a_token_of_probability_zero(
    uniform: float, vocab_size: int
) -> None:
    logits = torch.zeros(1, 1, vocab_size)
    logits[..., [0, -2, -1]] = -torch.inf
    logprobs = scaled_logprobs(decoding(), logits)

    drawn = int(
        sample_candidates(decoding(), logprobs, torch.tensor([[uniform]], dtype=torch.float64))
    )

    assert 0 < drawn < vocab_size - 2


def test_greedy_decoding_takes_the_likeliest_and_reports_at_temperature_one() -> None:
    logits = torch.tensor([[[1.0, 3.0, 2.0]]])
    greedy = decoding(temperature=0.0)

    assert sample_candidates(
        greedy, scaled_logprobs(greedy, logits), torch.tensor([[0.01]])
    ).tolist() == [[1]]
    torch.testing.assert_close(scaled_logprobs(greedy, logits), logits.log_softmax(-1))


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[[1.0, 3.0, 2.0]]])

    torch.testing.assert_close(
        scaled_logprobs(decoding(temperature=0.5), logits), (2 * logits).log_softmax(-1)
    )
