"""The unmasking rules, on blocks small enough to see what must be committed."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from services.common.diffusion.config import DecodingConfig, UnmaskingStrategy
from services.common.diffusion.rules import commit_mask, confidences
from tests.support.tiny_models import decoding

CONFIDENCE = [0.5, 0.9, 0.9, 0.2]


def _commit(
    config: DecodingConfig, masked: list[int], confidence: list[float] = CONFIDENCE
) -> list[int]:
    mask = torch.tensor([masked], dtype=torch.bool)
    flat = torch.full((1, len(masked), 3), -math.log(3))
    return commit_mask(config, mask, torch.tensor([confidence]), flat)[0].int().tolist()


@pytest.mark.parametrize(
    ("changes", "masked", "expected"),
    [
        (
            {"unmasking_strategy": "low_confidence_static", "denoising_steps": 4},
            [1, 1, 1, 1],
            [0, 1, 0, 0],
        ),
        (
            {"unmasking_strategy": "low_confidence_static", "denoising_steps": 2},
            [1, 1, 1, 1],
            [0, 1, 1, 0],
        ),
        (
            {"unmasking_strategy": "low_confidence_static", "denoising_steps": 2},
            [1, 0, 0, 1],
            [1, 0, 0, 1],
        ),
        (
            {"unmasking_strategy": "low_confidence_static", "denoising_steps": 3},
            [1, 1, 1, 1],
            [0, 1, 0, 0],
        ),
        (
            {"unmasking_strategy": "low_confidence_static", "denoising_steps": 8},
            [1, 0, 1, 1],
            [0, 0, 1, 0],
        ),
        (
            {"unmasking_strategy": "low_confidence_dynamic", "confidence_threshold": 0.5},
            [1, 1, 1, 1],
            [1, 1, 1, 0],
        ),
        (
            {"unmasking_strategy": "low_confidence_dynamic", "confidence_threshold": 0.95},
            [1, 1, 1, 1],
            [0, 1, 0, 0],
        ),
        (
            {"unmasking_strategy": "low_confidence_dynamic", "confidence_threshold": 0.95},
            [1, 0, 0, 1],
            [1, 0, 0, 0],
        ),
        ({"unmasking_strategy": "sequential", "denoising_steps": 2}, [0, 1, 0, 1], [0, 1, 0, 1]),
        ({"unmasking_strategy": "sequential", "denoising_steps": 4}, [0, 1, 1, 1], [0, 1, 0, 0]),
    ],
)
def test_a_rule_commits_what_it_says(
    changes: dict[str, Any], masked: list[int], expected: list[int]
) -> None:
    assert _commit(decoding(**changes), masked) == expected


def _of_entropies() -> Tensor:
    """Log-probabilities of four positions with entropies 0.69, 0, 0.33 and 0.69 nats."""
    probabilities = torch.tensor(
        [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.9, 0.0, 0.1], [0.0, 0.5, 0.5]]
    )
    return probabilities.log()[None]


@pytest.mark.parametrize(
    ("bound", "masked", "expected"),
    [
        (0.0, [1, 1, 1, 1], [0, 1, 0, 0]),
        (0.4, [1, 1, 1, 1], [0, 1, 1, 0]),
        (1.1, [1, 1, 1, 1], [1, 1, 1, 0]),
        (9.0, [1, 1, 1, 1], [1, 1, 1, 1]),
        (0.1, [1, 0, 0, 1], [1, 0, 0, 0]),
        (1.1, [1, 0, 0, 1], [1, 0, 0, 0]),
    ],
)
def test_entropies_are_summed_from_the_smallest(
    bound: float, masked: list[int], expected: list[int]
) -> None:
    config = decoding(unmasking_strategy="entropy_bounded", entropy_bound=bound)
    mask = torch.tensor([masked], dtype=torch.bool)

    assert (
        commit_mask(config, mask, torch.zeros(1, 4), _of_entropies())[0].int().tolist() == expected
    )


def test_confidence_is_of_the_likeliest_token_or_of_the_candidate() -> None:
    logprobs = torch.tensor([[[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]]).log()
    candidates = torch.tensor([[1, 2]])

    by_max = confidences(decoding(selection="max"), logprobs, candidates)
    by_candidate = confidences(decoding(selection="sampled"), logprobs, candidates)

    torch.testing.assert_close(by_max, torch.tensor([[0.7, 0.4]]))
    torch.testing.assert_close(by_candidate, torch.tensor([[0.2, 0.4]]))


@given(
    strategy=st.sampled_from(UnmaskingStrategy),
    masked=st.lists(st.booleans(), min_size=1, max_size=8),
    steps=st.integers(1, 8),
    bound=st.floats(0, 3),
    seed=st.integers(0, 1000),
)
def test_every_rule_commits_some_of_the_masked_positions_and_no_other(
    strategy: UnmaskingStrategy, masked: list[bool], steps: int, bound: float, seed: int
) -> None:
    config = decoding(
        unmasking_strategy=strategy,
        denoising_steps=steps,
        entropy_bound=bound,
        confidence_threshold=0.6,
    )
    logits = torch.randn(1, len(masked), 5, generator=torch.Generator().manual_seed(seed))
    logprobs = torch.log_softmax(logits, -1)
    mask = torch.tensor([masked])

    commit = commit_mask(config, mask, logprobs.amax(-1).exp(), logprobs)

    assert not bool((commit & ~mask).any())
    assert bool(commit.any()) == any(masked)
