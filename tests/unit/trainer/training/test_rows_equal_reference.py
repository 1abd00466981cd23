"""Packed rows against the published layout: K rows `[noisy | clean]` per response, written plainly."""

import numpy as np
import pytest
import torch
from torch import Tensor

from services.common.model.forward import attended_states, token_logprobs
from services.common.model.loading import LoadedModel
from services.trainer.training.policy import score_row
from services.trainer.training.trajectory_rows import Sample, rl_rows
from tests.support.numerics import (
    gradient,
    masked_attention,
    random_samples,
    state_logprobs,
    tiny_loaded,
)


def _packed_logprobs(
    loaded: LoadedModel, samples: list[Sample], max_tokens: int
) -> dict[tuple[int, int], Tensor]:
    rows = rl_rows(
        samples,
        block_size=loaded.block_size,
        mask_token_id=loaded.mask_token_id,
        max_tokens=max_tokens,
    )
    return {
        (int(sample), int(token)): logprob
        for row in rows
        for sample, token, logprob in zip(
            row.sample, row.token, score_row(loaded, row, 1.0)[0], strict=True
        )
    }


def _ranks(sample: Sample, block_size: int) -> list[int]:
    """Rank of every position by its definition; 0 in the prompt."""
    steps = [0] * len(sample.prompt_ids) + sample.response.unmask_step.tolist()
    ranks = []
    for i, step in enumerate(steps):
        start = i // block_size * block_size
        distinct = sorted({s for s in steps[start : start + block_size] if s > 0})
        ranks.append(distinct.index(step) + 1 if step else 0)
    return ranks


def _reference_mask(total: int, block_size: int) -> Tensor:
    """[2·total, 2·total] for [noisy | clean]: own copy's own block, or a clean earlier block."""
    mask = torch.zeros(2 * total, 2 * total, dtype=torch.bool)
    for q in range(2 * total):
        for k in range(2 * total):
            block_q, block_k = q % total // block_size, k % total // block_size
            same_copy, key_is_clean = (q < total) == (k < total), k >= total
            mask[q, k] = (same_copy and block_q == block_k) or (key_is_clean and block_k < block_q)
    return mask


def _reference_logprobs(loaded: LoadedModel, sample: Sample) -> dict[int, Tensor]:
    """Log-prob of each response token, from K rows of twice the length."""
    ids = torch.tensor([*sample.prompt_ids.tolist(), *sample.response.token_ids.tolist()])
    ranks, total = torch.tensor(_ranks(sample, loaded.block_size)), len(ids)
    attend = masked_attention(_reference_mask(total, loaded.block_size))
    positions = torch.arange(total).repeat(2)
    found = {}
    for k in range(1, int(ranks.max()) + 1):
        row = torch.cat([torch.where(ranks >= k, loaded.mask_token_id, ids), ids])
        hidden = attended_states(loaded.model, row[None], positions[None], attend)[0]
        logprobs = token_logprobs(loaded, hidden[:total], 1.0)
        for i in torch.nonzero(ranks == k).flatten().tolist():
            found[i - len(sample.prompt_ids)] = logprobs[i, ids[i]]
    return found


@pytest.mark.parametrize(("block_size", "max_tokens"), [(1, 30), (2, 1), (4, 200), (5, 10_000)])
def test_loss_and_gradient_of_packed_rows_equal_those_of_the_published_layout(
    block_size: int, max_tokens: int
) -> None:
    loaded = tiny_loaded(vocab_size=7, block_size=block_size, seed=block_size)
    samples = random_samples(loaded, 5, seed=block_size)
    packed = _packed_logprobs(loaded, samples, max_tokens)
    reference = {
        (i, token): logprob
        for i, sample in enumerate(samples)
        for token, logprob in _reference_logprobs(loaded, sample).items()
    }
    weights = dict(
        zip(sorted(reference), np.random.default_rng(0).normal(size=len(reference)), strict=True)
    )

    assert sorted(packed) == sorted(reference)
    loss, expected = (
        sum((logprobs[at] * w for at, w in weights.items()), torch.zeros(()))
        for logprobs in (packed, reference)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        gradient(loaded, loss), gradient(loaded, expected), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("block_size", [1, 2, 4, 5])
def test_a_packed_log_prob_is_that_of_the_state_in_which_the_token_was_decoded(
    block_size: int,
) -> None:
    loaded = tiny_loaded(vocab_size=7, block_size=block_size)
    samples = random_samples(loaded, 4, seed=10 + block_size)

    packed = _packed_logprobs(loaded, samples, 100)

    for (i, token), logprob in packed.items():
        sample, at = samples[i], len(samples[i].prompt_ids) + token
        ids = [*sample.prompt_ids.tolist(), *sample.response.token_ids.tolist()]
        steps = [0] * len(sample.prompt_ids) + sample.response.unmask_step.tolist()
        end = (at // block_size + 1) * block_size
        state = [loaded.mask_token_id if step >= steps[at] and j // block_size == at // block_size else ids[j]
                 for j, step in enumerate(steps[:end])]  # fmt: skip
        expected = state_logprobs(loaded, state)[at % block_size, ids[at]]
        torch.testing.assert_close(logprob, expected, rtol=1e-12, atol=1e-12)
