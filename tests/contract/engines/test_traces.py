"""What an engine says about a response is complete, and is what the trainer finds again."""

import dataclasses

import numpy as np
import pytest
import torch

from services.common.errors import PlatformError
from services.common.model.forward import hidden_states, token_logprobs
from services.common.model.loading import LoadedModel
from services.common.parity import DenoisingPath
from services.common.trajectory import FinishReason, Response
from services.rollout.engines.base import GenerationRequest
from services.trainer.training.trajectory_rows import Sample, rl_rows
from tests.contract.engines.conftest import MakeEngine
from tests.support.numerics import response_of
from tests.support.tiny_models import decode, decoding, request, tiny_model

PROMPT_LENGTHS = (1, 3, 4, 6, 8, 13)
STRATEGIES = ("low_confidence_dynamic", "low_confidence_static", "sequential")
SETTINGS = (
    *({"unmasking_strategy": strategy} for strategy in STRATEGIES),
    {"selection": "sampled", "temperature": 0.7, "confidence_threshold": 0.02},
    {"temperature": 1.4, "top_k": 5, "top_p": 0.9},
    {"temperature": 0.0},
)


def _prompt(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 90, size=length)


def _responses(
    make_engine: MakeEngine, loaded: LoadedModel, settings: dict[str, object]
) -> list[tuple[GenerationRequest, Response]]:
    config = decoding(
        block_size=loaded.block_size, max_new_tokens=18, stop_token_ids=(11,), **settings
    )
    requests = [
        request(_prompt(length), config, ledger=length, index=i)
        for length in PROMPT_LENGTHS
        for i in (0, 1)
    ]
    done = decode(make_engine(loaded), requests)
    return [(each, done[each.request_id]) for each in requests]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_position_has_a_token_a_step_and_a_logprob_and_blocks_follow_each_other(
    make_engine: MakeEngine, settings: dict[str, object]
) -> None:
    loaded = tiny_model()
    for asked, got in _responses(make_engine, loaded, settings):
        size, start = len(got.token_ids), len(asked.prompt_ids)
        blocks = (start + np.arange(size)) // loaded.block_size

        assert (start + size) % loaded.block_size == 0
        assert len(got.unmask_step) == len(got.logprobs) == len(got.confidences) == size
        assert loaded.mask_token_id not in got.token_ids
        assert (got.logprobs <= 0).all()
        assert ((got.confidences > 0) & (got.confidences <= 1)).all()
        assert sorted(set(got.unmask_step.tolist())) == list(range(1, got.unmask_step.max() + 1))
        for first, second in zip(
            range(blocks[0], blocks[-1]), range(blocks[0] + 1, blocks[-1] + 1), strict=True
        ):
            assert got.unmask_step[blocks == first].max() < got.unmask_step[blocks == second].min()
        assert got.num_forwards == got.unmask_step.max() + blocks[-1] - blocks[0]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_response_ends_at_its_first_stop_token_or_with_its_budget(
    make_engine: MakeEngine, settings: dict[str, object]
) -> None:
    for asked, got in _responses(make_engine, tiny_model(), settings):
        stops = np.flatnonzero(got.token_ids == 11).tolist()
        budget = -(-(len(asked.prompt_ids) + 18) // 4) * 4 - len(asked.prompt_ids)
        if stops:
            assert (got.finish_reason, got.visible_len) == (FinishReason.STOP, stops[0] + 1)
            assert len(got.token_ids) - stops[0] <= 4
        else:
            assert (got.finish_reason, got.visible_len, len(got.token_ids)) == (
                FinishReason.LENGTH,
                budget,
                budget,
            )


def _path_of(asked: GenerationRequest, got: Response) -> DenoisingPath:
    return DenoisingPath(
        prompt_ids=asked.prompt_ids, token_ids=got.token_ids, unmask_step=got.unmask_step
    )


def _sample(path: DenoisingPath, logprobs: np.ndarray) -> Sample:
    response = response_of(path.token_ids, path.unmask_step, logprobs)
    return Sample(trajectory_id="", prompt_ids=path.prompt_ids, response=response, advantage=1.0)


def _gap(
    loaded: LoadedModel, temperature: float, pairs: list[tuple[GenerationRequest, Response]]
) -> float:
    """Largest |trainer - engine| / max(1, |engine|) over all response tokens."""
    samples = [_sample(_path_of(asked, got), got.logprobs) for asked, got in pairs]
    return _sample_gap(loaded, temperature, samples)


@torch.no_grad()
def _sample_gap(loaded: LoadedModel, temperature: float, samples: list[Sample]) -> float:
    gap, count = 0.0, 0
    for row in rl_rows(
        samples, block_size=loaded.block_size, mask_token_id=loaded.mask_token_id, max_tokens=600
    ):
        hidden = hidden_states(loaded.model, row.token_ids, row.index)[row.loss_at]
        ours = token_logprobs(loaded, hidden, temperature)[
            torch.arange(len(row.targets)), row.targets
        ]
        recorded = torch.tensor(
            [samples[s].response.logprobs[t] for s, t in zip(row.sample, row.token, strict=True)]
        )
        gap = max(gap, float(((ours - recorded).abs() / recorded.abs().clamp(min=1)).max()))
        count += len(row.targets)
    assert count == sum(len(sample.response.token_ids) for sample in samples) > 0
    return gap


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("moe", [False, True])
def test_the_trainer_reproduces_the_logprobs(
    make_engine: MakeEngine, settings: dict[str, object], moe: bool
) -> None:
    loaded = tiny_model(moe=moe)
    temperature = float(str(settings.get("temperature", 1.0)))

    assert _gap(loaded, temperature, _responses(make_engine, loaded, settings)) <= 1e-5


@pytest.mark.parametrize("block_size", [1, 2, 8, 16])
def test_the_trainer_reproduces_the_logprobs_at_any_block_size(
    make_engine: MakeEngine, block_size: int
) -> None:
    loaded = tiny_model(block_size=block_size)
    settings = {
        "denoising_steps": max(1, block_size // 2),
        "unmasking_strategy": "low_confidence_static",
    }

    assert _gap(loaded, 1.0, _responses(make_engine, loaded, settings)) <= 1e-5


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0, "unmasking_strategy": strategy} for strategy in STRATEGIES]
)
@pytest.mark.parametrize("length", PROMPT_LENGTHS)
def test_greedy_responses_are_those_of_the_other_engines(
    make_engine: MakeEngine, settings: dict[str, object], length: int
) -> None:
    loaded, one = (
        tiny_model(),
        request(_prompt(length), decoding(**settings, confidence_threshold=0.02)),
    )
    from services.rollout.engines.torch_engine import TorchEngine  # noqa: PLC0415

    expected = decode(TorchEngine(loaded, max_sequence_tokens=64, max_batch_size=1), [one])["0-0"]
    got = decode(make_engine(loaded), [one])["0-0"]

    assert (got.token_ids.tolist(), got.unmask_step.tolist()) == (
        expected.token_ids.tolist(), expected.unmask_step.tolist()
    )  # fmt: skip
    assert got.num_forwards == expected.num_forwards
    np.testing.assert_allclose(got.confidences, expected.confidences, rtol=1e-4)


def _path(rng: np.random.Generator, prompt_length: int, loaded: LoadedModel) -> DenoisingPath:
    """A random response in a random possible order."""
    size = -(-(prompt_length + 10) // loaded.block_size) * loaded.block_size - prompt_length
    draws = (prompt_length + np.arange(size)) // loaded.block_size * 3 + rng.integers(0, 3, size)
    return DenoisingPath(
        prompt_ids=rng.integers(0, 90, prompt_length).astype(np.int32),
        token_ids=rng.integers(0, 90, size).astype(np.int32),
        unmask_step=(np.unique(draws, return_inverse=True)[1] + 1).astype(np.int32),
    )


@pytest.mark.parametrize("block_size", [1, 4, 8])
def test_the_trainer_agrees_with_the_replay_of_any_response(
    make_engine: MakeEngine, block_size: int
) -> None:
    loaded, rng = tiny_model(block_size=block_size), np.random.default_rng(3)
    paths = [_path(rng, length, loaded) for length in PROMPT_LENGTHS]

    replayed = make_engine(loaded).replay(paths)

    samples = [_sample(path, logprobs) for path, logprobs in zip(paths, replayed, strict=True)]
    assert _sample_gap(loaded, 1.0, samples) <= 1e-5


def test_a_replay_gives_what_was_recorded_and_changes_nothing(make_engine: MakeEngine) -> None:
    loaded = tiny_model()
    engine, asked = make_engine(loaded), [request(_prompt(n), decoding(), ledger=n) for n in (3, 8)]
    done = [decode(engine, [each])[each.request_id] for each in asked]

    replayed = engine.replay([_path_of(*pair) for pair in zip(asked, done, strict=True)])

    for got, expected in zip(replayed, done, strict=True):
        np.testing.assert_allclose(got, expected.logprobs, atol=2e-6)
    assert (
        decode(engine, [asked[0]])[asked[0].request_id].token_ids.tolist()
        == done[0].token_ids.tolist()
    )


def test_a_path_in_an_impossible_order_is_not_replayed(make_engine: MakeEngine) -> None:
    loaded = tiny_model()
    path = _path(np.random.default_rng(0), 4, loaded)

    with pytest.raises(PlatformError) as caught:
        make_engine(loaded).replay(
            [dataclasses.replace(path, unmask_step=path.unmask_step[::-1].copy())]
        )

    assert caught.value.code == "invalid_request"
