"""The log-probability that the engine records is the one that the trainer computes for the same
token.
"""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from services.common.diffusion.config import DecodingConfig, UnmaskingStrategy
from services.common.model.forward import hidden_states, token_logprobs
from services.common.model.loading import LoadedModel
from services.common.trajectory import Float32s
from services.rollout.engines.base import GenerationRequest
from services.rollout.engines.torch_engine import TorchEngine
from services.trainer.training.objective import PolicyStatistics
from services.trainer.training.selection_drift import make_drift_observer
from services.trainer.training.trajectory_rows import Sample, rl_rows
from tests.support.tiny_models import decode, decoding, request, tiny_model

PROMPT_LENGTHS = (1, 3, 16, 21, 30, 37)
RESPONSES_PER_PROMPT = 2
STOP_IDS = tuple(range(6))
"""So many that most responses end early, some of them inside a block."""


def _requests(config: DecodingConfig) -> Iterator[GenerationRequest]:
    rng = np.random.default_rng(5)
    for place, length in enumerate(PROMPT_LENGTHS):
        prompt = rng.integers(0, 96, size=length)
        for index in range(RESPONSES_PER_PROMPT):
            yield request(prompt, config, ledger=place, index=index)


def _samples(loaded: LoadedModel, config: DecodingConfig, slots: int = 12) -> list[Sample]:
    """Decoded responses as the trainer gets them."""
    requests = list(_requests(config))
    done = decode(TorchEngine(loaded, max_sequence_tokens=96, max_batch_size=slots), requests)
    return [
        Sample(
            trajectory_id=each.request_id,
            prompt_ids=each.prompt_ids,
            response=done[each.request_id],
            advantage=1.0,
        )
        for each in requests
    ]


@torch.no_grad()
def _largest_gap(loaded: LoadedModel, config: DecodingConfig, slots: int = 12) -> tuple[float, int]:
    """Largest |trainer - engine| / max(1, |engine|) over all response tokens, and their number."""
    samples = _samples(loaded, config, slots)
    gap, count = 0.0, 0
    rows = rl_rows(
        samples, block_size=loaded.block_size, mask_token_id=loaded.mask_token_id, max_tokens=600
    )
    for row in rows:
        hidden = hidden_states(loaded.model, row.token_ids, row.index)[row.loss_at]
        ours = token_logprobs(loaded, hidden, config.temperature)[
            torch.arange(len(row.targets)), row.targets
        ]
        recorded = torch.tensor(
            [_recorded(samples[s])[t] for s, t in zip(row.sample, row.token, strict=True)]
        )
        gap = max(gap, float(((ours - recorded).abs() / recorded.abs().clamp(min=1)).max()))
        count += len(row.targets)
    assert count == sum(sample.num_terms for sample in samples) > 0
    return gap, count


def _recorded(sample: Sample) -> Float32s:
    return np.concatenate([sample.response.logprobs, sample.response.rejected.logprobs])


@pytest.mark.parametrize("strategy", list(UnmaskingStrategy))
@pytest.mark.parametrize("block_size", [1, 2, 4, 8, 16])
def test_the_trainer_reproduces_the_engines_logprobs(
    strategy: UnmaskingStrategy, block_size: int
) -> None:
    loaded = tiny_model(block_size=block_size)
    config = decoding(
        unmasking_strategy=strategy,
        block_size=block_size,
        denoising_steps=max(1, block_size // 2),
        max_new_tokens=20,
    )

    gap, count = _largest_gap(loaded, config)

    assert count >= 240
    assert gap <= 1e-5


@pytest.mark.parametrize(
    "changes", [{"selection": "sampled", "temperature": 0.7}, {"temperature": 1.4, "top_k": 5}]
)
@pytest.mark.parametrize("moe", [False, True])
def test_temperature_truncation_and_experts_change_nothing_about_that(
    changes: dict[str, object], moe: bool
) -> None:
    gap, _ = _largest_gap(tiny_model(moe=moe), decoding(**changes, max_new_tokens=20))

    assert gap <= 1e-5


@pytest.mark.parametrize(
    "changes",
    [{"selection": "sampled"}, {"unmasking_strategy": "sequential", "denoising_steps": 4}],
)
def test_the_trainer_reproduces_the_logprobs_of_rejected_candidates(
    changes: dict[str, object],
) -> None:
    loaded = tiny_model()
    config = decoding(**changes, max_new_tokens=20, record_candidates=True)

    gap, count = _largest_gap(loaded, config)

    assert count > 1.5 * sum(len(sample.response.token_ids) for sample in _samples(loaded, config))
    assert gap <= 1e-5


def test_recording_candidates_changes_no_response_and_is_off_unless_asked_for() -> None:
    loaded, config = tiny_model(), decoding(selection="sampled", max_new_tokens=20)

    plain, recording = (
        _samples(loaded, config),
        _samples(loaded, config.model_copy(update={"record_candidates": True})),
    )

    for one, other in zip(plain, recording, strict=True):
        assert np.array_equal(one.response.token_ids, other.response.token_ids)
        assert np.array_equal(one.response.logprobs, other.response.logprobs)
        assert len(one.response.rejected.step) == 0
        # One candidate per position and step before its own: the masked positions that a step left.
        blocks = (len(other.prompt_ids) + np.arange(len(other.response.token_ids))) // 4
        expected = [
            (position, step)
            for position, (own, block) in enumerate(
                zip(other.response.unmask_step, blocks, strict=True)
            )
            for step in sorted(set(other.response.unmask_step[blocks == block].tolist()))
            if step < own
        ]
        assert (
            list(
                zip(
                    other.response.rejected.position.tolist(),
                    other.response.rejected.step.tolist(),
                    strict=True,
                )
            )
            == expected
        )


@pytest.mark.parametrize(
    "changes",
    [
        *({"unmasking_strategy": strategy} for strategy in UnmaskingStrategy),
        {"selection": "sampled", "record_candidates": True},
    ],
)
def test_no_selection_has_drifted_under_the_weights_that_sampled(
    changes: dict[str, object],
) -> None:
    loaded = tiny_model()
    config = decoding(**changes, max_new_tokens=20)
    samples = _samples(loaded, config)
    (row,) = rl_rows(samples, block_size=4, mask_token_id=loaded.mask_token_id, max_tokens=10**6)
    statistics = PolicyStatistics()

    observe = make_drift_observer(loaded, row, config, statistics, logits_per_chunk=5000)
    assert observe is not None
    observe(hidden_states(loaded.model, row.token_ids, row.index))

    assert statistics.drifted == 0
    assert statistics.steps == sum(
        len(set(sample.response.unmask_step.tolist())) for sample in samples
    )


def test_drift_is_left_out_where_rejected_candidates_would_be_needed() -> None:
    loaded, config = tiny_model(), decoding(selection="sampled", max_new_tokens=20)
    (row,) = rl_rows(
        _samples(loaded, config), block_size=4, mask_token_id=loaded.mask_token_id, max_tokens=10**6
    )

    assert (
        make_drift_observer(loaded, row, config, PolicyStatistics(), logits_per_chunk=5000) is None
    )


@pytest.mark.parametrize("slots", [1, 5, 64])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_so_it_is_for_responses_that_end_inside_a_block_and_in_batches_of_any_size(
    block_size: int, slots: int
) -> None:
    loaded = tiny_model(block_size=block_size)
    config = decoding(block_size=block_size, max_new_tokens=24, stop_token_ids=STOP_IDS)

    gap, count = _largest_gap(loaded, config, slots)

    whole_blocks = [
        -(-(length + 24) // block_size) * block_size - length for length in PROMPT_LENGTHS
    ]
    assert 12 <= count < RESPONSES_PER_PROMPT * sum(whole_blocks)
    assert gap <= 1e-5


@torch.no_grad()
def test_at_block_length_one_the_engine_is_the_causal_model_read_at_a_mask_behind_the_prefix() -> (
    None
):
    loaded = tiny_model(block_size=1)
    config = copy.deepcopy(loaded.model.config)
    causal = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    causal.load_state_dict(loaded.model.state_dict())
    gap = 0.0
    for sample in _samples(
        loaded, decoding(block_size=1, denoising_steps=1, max_new_tokens=20), slots=12
    ):
        for place, (token, recorded) in enumerate(
            zip(sample.response.token_ids, sample.response.logprobs, strict=True)
        ):
            prefix = [*sample.prompt_ids, *sample.response.token_ids[:place], loaded.mask_token_id]
            logits = (
                causal(torch.tensor([prefix]))
                .logits[0, -1]
                .masked_fill(~loaded.sampleable, -torch.inf)
            )
            expected = float(torch.log_softmax(logits, -1)[token])
            gap = max(gap, abs(expected - recorded) / max(1.0, abs(expected)))

    assert 0 < gap <= 1e-5
