"""A response depends on weights, prompt and seed, and on nothing else."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from services.common.errors import PlatformError
from services.common.model.forward import hidden_states, token_logprobs
from services.common.model.index import RowIndex
from services.common.model.loading import LoadedModel
from services.common.model.state import export_state
from services.common.trajectory import Response
from services.rollout.engines.base import GenerationRequest
from services.rollout.engines.torch_engine import TorchEngine
from tests.support.tiny_models import decode, decoding, request, tiny_model


def _prompt(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 96, size=length).astype(np.int32)


def _bytes(response: Response) -> tuple[bytes, ...]:
    arrays = (
        response.token_ids,
        response.unmask_step,
        response.logprobs,
        response.confidences,
    )
    return tuple(array.tobytes() for array in arrays)


def _mixed_requests() -> list[GenerationRequest]:
    """Prompts of many lengths, configurations of every kind, groups of three."""
    configs = [
        decoding(),
        decoding(temperature=0.0, max_new_tokens=7),
        decoding(unmasking_strategy="sequential", temperature=0.7, top_k=20, max_new_tokens=30),
        decoding(unmasking_strategy="entropy_bounded", selection="sampled", top_p=0.9),
    ]
    return [
        request(prompt, config, ledger=place, index=index)
        for place, (prompt, config) in enumerate(
            (_prompt(n), configs[n % 4]) for n in (1, 4, 6, 11, 40, 62, 75, 17)
        )
        for index in range(3)
    ]


def _together_reversed_alone(loaded: LoadedModel) -> Iterator[tuple[Response, Response]]:
    """Each response decoded among all others, against the same in another order and by itself."""
    requests = _mixed_requests()

    def run(order: list[GenerationRequest]) -> dict[str, Response]:
        return decode(TorchEngine(loaded, max_sequence_tokens=128, max_batch_size=16), order)

    together = run(requests)
    for other in (run(requests[::-1]), *(run([each]) for each in requests[::5])):
        for name, response in other.items():
            yield together[name], response


def test_a_response_is_bitwise_the_same_alone_and_in_any_company() -> None:
    for one, other in _together_reversed_alone(tiny_model()):
        assert _bytes(one) == _bytes(other)


def test_a_response_of_a_mixture_of_experts_is_the_same_in_any_company_up_to_rounding() -> None:
    for one, other in _together_reversed_alone(tiny_model(moe=True)):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-6)


def test_more_requests_than_slots_wait_for_a_free_slot_and_all_are_answered() -> None:
    requests = _mixed_requests()
    few = TorchEngine(tiny_model(), max_sequence_tokens=128, max_batch_size=3)

    assert decode(few, requests).keys() == {each.request_id for each in requests}
    assert few.busy_s > 0


def test_equal_prompts_with_different_indices_give_different_responses_and_with_equal_ones_the_same() -> (
    None
):
    engine = TorchEngine(tiny_model(), max_sequence_tokens=64, max_batch_size=32)
    prompt = _prompt(9)
    group = [request(prompt, decoding(), index=index) for index in range(16)]

    first = {name: done.token_ids.tobytes() for name, done in decode(engine, group).items()}
    again = {name: done.token_ids.tobytes() for name, done in decode(engine, group[::-1]).items()}

    assert len(set(first.values())) == 16
    assert again == first


@pytest.mark.parametrize("change", [{"seed": 8}, {"ledger_position": 1}])
def test_seed_and_ledger_position_change_the_response(change: dict[str, int]) -> None:
    engine = TorchEngine(tiny_model(), max_sequence_tokens=64, max_batch_size=2)
    one = request(_prompt(9), decoding())
    other = replace(one, request_id="other", **change)

    done = decode(engine, [one, other])

    assert done["0-0"].token_ids.tolist() != done["other"].token_ids.tolist()


@torch.no_grad()
def _state_logprobs(loaded: LoadedModel, tokens: list[int]) -> Tensor:
    """Log-probabilities of the last block of a sequence, by a full forward without a cache."""
    index = RowIndex.clean(len(tokens), loaded.block_size)
    hidden = hidden_states(loaded.model, torch.tensor(tokens), index)
    return token_logprobs(loaded, hidden[-loaded.block_size :], 1.0)


@pytest.mark.parametrize("moe", [False, True])
def test_cached_decoding_equals_the_full_forward(moe: bool) -> None:
    loaded = tiny_model(moe=moe)
    prompt = _prompt(11)
    done = decode(
        TorchEngine(loaded, max_sequence_tokens=64, max_batch_size=1),
        [request(prompt, decoding(max_new_tokens=21))],
    )["0-0"]
    block, mask = loaded.block_size, loaded.mask_token_id

    for step in range(1, done.unmask_step.max() + 1):
        offsets = np.flatnonzero(done.unmask_step == step)
        end = (len(prompt) + int(offsets[0])) // block * block + block
        response = np.where(done.unmask_step < step, done.token_ids, mask)
        logprobs = _state_logprobs(loaded, np.concatenate([prompt, response])[:end].tolist())
        for offset in offsets:
            expected = logprobs[len(prompt) + offset - end, done.token_ids[offset]]
            assert done.logprobs[offset] == pytest.approx(float(expected), abs=1e-5)


def test_the_mask_and_ids_beyond_the_tokenizer_are_never_sampled() -> None:
    loaded = tiny_model()
    flat = decoding(temperature=1e4, max_new_tokens=60)
    prompt = _prompt(4)

    done = decode(
        TorchEngine(loaded, max_sequence_tokens=64, max_batch_size=64),
        [request(prompt, flat, index=index) for index in range(64)],
    )

    seen = {int(token) for response in done.values() for token in response.token_ids}
    assert loaded.mask_token_id < len(loaded.tokenizer) < len(loaded.sampleable)
    assert seen == set(range(len(loaded.tokenizer))) - {loaded.mask_token_id}


def test_pushed_weights_decide_the_next_response() -> None:
    first, second = tiny_model(seed=0), tiny_model(seed=1)
    one = request(_prompt(9), decoding())
    expected = _bytes(
        decode(TorchEngine(second, max_sequence_tokens=64, max_batch_size=2), [one])["0-0"]
    )
    copy = tiny_model.__wrapped__(seed=0)
    engine = TorchEngine(copy, max_sequence_tokens=64, max_batch_size=2)
    before = _bytes(decode(engine, [one])["0-0"])

    engine.load_weights(export_state(second.model))

    assert before == _bytes(
        decode(TorchEngine(first, max_sequence_tokens=64, max_batch_size=2), [one])["0-0"]
    )
    assert _bytes(decode(engine, [one])["0-0"]) == expected != before


def test_weights_are_not_replaced_while_responses_are_being_decoded() -> None:
    engine = TorchEngine(tiny_model(), max_sequence_tokens=64, max_batch_size=1)
    engine.submit([request(_prompt(9), decoding())])

    with pytest.raises(PlatformError) as caught:
        engine.load_weights(export_state(tiny_model().model))

    assert caught.value.code == "busy"


def test_abort_forgets_queued_and_running_requests_and_leaves_no_trace() -> None:
    engine = TorchEngine(tiny_model(), max_sequence_tokens=64, max_batch_size=2)
    one = request(_prompt(9), decoding())
    expected = _bytes(decode(engine, [one])["0-0"])
    engine.submit([request(_prompt(9), decoding(), ledger=place) for place in range(1, 6)])
    engine.step()

    engine.abort_all()

    assert not engine.has_work
    assert {name: _bytes(done) for name, done in decode(engine, [one]).items()} == {"0-0": expected}


def test_broken_weights_are_an_error_and_do_not_outlive_their_replacement() -> None:
    loaded = tiny_model.__wrapped__(seed=0)
    engine = TorchEngine(loaded, max_sequence_tokens=64, max_batch_size=2)
    one = request(_prompt(9), decoding(temperature=0.0))
    good = {name: tensor.clone() for name, tensor in export_state(loaded.model).items()}
    expected = _bytes(decode(engine, [one])["0-0"])

    engine.load_weights({name: torch.full_like(tensor, torch.nan) for name, tensor in good.items()})
    with pytest.raises(PlatformError, match="not numbers"):
        decode(engine, [request(_prompt(40), decoding())])
    engine.abort_all()
    engine.load_weights(good)

    assert _bytes(decode(engine, [one])["0-0"]) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_overflow_are_the_error_that_nan_is(temperature: float) -> None:
    loaded = tiny_model.__wrapped__(seed=0)
    engine = TorchEngine(loaded, max_sequence_tokens=64, max_batch_size=2)
    with torch.no_grad():
        # Every product is finite, their sums are not: logits of +inf and -inf, none of them NaN.
        loaded.model.model.norm.weight.fill_(1e38)
        loaded.model.get_output_embeddings().weight.mul_(
            1.0 / loaded.model.get_output_embeddings().weight.std()
        )

    with pytest.raises(PlatformError, match="not numbers or infinite"):
        decode(engine, [request(_prompt(9), decoding(temperature=temperature))])


def test_a_temperature_that_makes_the_logits_overflow_is_the_same_error() -> None:
    engine = TorchEngine(tiny_model(), max_sequence_tokens=64, max_batch_size=2)

    with pytest.raises(PlatformError, match="not numbers or infinite"):
        decode(engine, [request(_prompt(9), decoding(temperature=1e-39))])


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused_before_it_reaches_the_embedding(
    token_id: int,
) -> None:
    engine = TorchEngine(tiny_model(), max_sequence_tokens=64, max_batch_size=2)
    prompt = _prompt(9)
    prompt[4] = token_id

    with pytest.raises(PlatformError, match=f"Token id {token_id} is outside the vocabulary"):
        engine.submit([request(prompt, decoding())])

    assert not engine.has_work
