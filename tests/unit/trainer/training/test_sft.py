import dataclasses
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch

from services.common.errors import PlatformError
from services.common.job_spec import SftSpec
from services.common.model.loading import LoadedModel
from services.common.model.prompts import encode_prompt
from services.common.model.tiny import character_tokenizer
from services.trainer.training.sft import (
    SftExample,
    add_noise,
    denoising_loss,
    encode_example,
    encode_trace,
    make_noise_generator,
)
from tests.support.numerics import tiny_loaded
from tests.support.tiny_models import tiny_model


def _example(prompt_len: int, answer_len: int) -> SftExample:
    ids = np.arange(prompt_len + answer_len, dtype=np.int32)
    return SftExample(prompt_ids=ids[:prompt_len], token_ids=ids[prompt_len:])


def test_the_weight_is_one_over_the_mask_rate() -> None:
    # A uniform draw of 0.25 stretched to [0.001, 1] is a rate of 0.25075.
    draw = SimpleNamespace(
        uniform=lambda low, high, size: np.full(size, low + (high - low) * 0.25),
        random=lambda n: np.zeros(n),
    )

    (noisy,) = add_noise([_example(2, 6)], SftSpec(), 4, draw)  # type: ignore[arg-type]

    assert noisy.weight.tolist() == pytest.approx([1 / 0.25075] * 6)
    assert noisy.state.all()


def test_the_expected_weight_of_every_token_is_one() -> None:
    """Unbiased: E[masked / t] = 1 whatever t; drawing an empty mask again would raise it above 1."""
    examples = [_example(3, 5)] * 40_000

    noisy = add_noise(examples, SftSpec(min_noise=0.05), 4, make_noise_generator(0, 0))

    terms = np.stack([example.state * example.weight for example in noisy])
    deviation = terms.std(axis=0) / np.sqrt(len(noisy))
    assert np.all(np.abs(terms.mean(axis=0) - 1) < 4 * deviation)
    assert np.all(deviation < 0.02)


def test_a_draw_that_masks_nothing_is_kept() -> None:
    # With a rate t a single-token answer stays whole with probability 1 − t; over t ~ U(ε, 1) that
    # is about one half.
    noisy = add_noise([_example(3, 1)] * 2_000, SftSpec(), 4, make_noise_generator(1, 0))

    unmasked = sum(not example.state.any() for example in noisy)
    assert 900 < unmasked < 1_100


def test_document_noise_has_one_rate_and_block_noise_one_per_block_of_the_grid() -> None:
    # Prompt of 3, blocks of 4: the first answer token shares the prompt's block.
    (document,) = add_noise(
        [_example(3, 9)], SftSpec(noise="document"), 4, make_noise_generator(0, 0)
    )
    (block,) = add_noise([_example(3, 9)], SftSpec(noise="block"), 4, make_noise_generator(0, 0))

    assert len(set(document.weight)) == 1
    assert [len(set(block.weight[part])) for part in (slice(0, 1), slice(1, 5), slice(5, 9))] == [
        1,
        1,
        1,
    ]
    assert len(set(block.weight)) == 3


def test_rates_stay_above_the_least_noise() -> None:
    noisy = add_noise(
        [_example(1, 3)] * 2_000, SftSpec(min_noise=0.5), 4, make_noise_generator(0, 0)
    )

    rates = np.array([1 / example.weight[0] for example in noisy])
    assert rates.min() >= 0.5
    assert rates.max() <= 1.0
    assert abs(rates.mean() - 0.75) < 0.02


def test_noise_is_a_function_of_seed_and_step() -> None:
    def masks(seed: int, step: int) -> list[list[bool]]:
        return [
            e.state.tolist()
            for e in add_noise(
                [_example(4, 20)] * 3, SftSpec(), 4, make_noise_generator(seed, step)
            )
        ]

    assert masks(1, 5) == masks(1, 5)
    assert masks(1, 5) != masks(1, 6)
    assert masks(1, 5) != masks(2, 5)


def test_the_loss_divides_by_all_answer_tokens_masked_or_not() -> None:
    # −(−1·2 − 3·4) / 10
    loss = denoising_loss(torch.tensor([-1.0, -3.0]), torch.tensor([2.0, 4.0]), 10)

    assert loss.item() == pytest.approx(1.4)


@pytest.fixture
def loaded() -> LoadedModel:
    """Blocks of four and one token per character."""
    tokenizer = character_tokenizer()
    return dataclasses.replace(
        tiny_loaded(vocab_size=5, block_size=4),
        tokenizer=tokenizer,
        mask_token_id=tokenizer.mask_token_id,
    )


@pytest.mark.parametrize(("answer", "padding"), [("", 0), ("xx", 2), ("xxx", 1), ("xxxxx", 3)])
def test_the_answer_ends_its_turn_and_is_filled_up_to_whole_blocks(
    loaded: LoadedModel, answer: str, padding: int
) -> None:
    example = encode_example(loaded, [{"role": "user", "content": "abc"}], answer)

    # 11 prompt tokens, the answer, and its end of turn, in blocks of four.
    assert (
        loaded.tokenizer.decode(example.prompt_ids)
        == "<|im_start|>user\nabc<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (
        loaded.tokenizer.decode(example.token_ids)
        == answer + "<|im_end|>" + "<|endoftext|>" * padding
    )


@pytest.mark.parametrize("pad", [None, "<|MASK|>"])
def test_a_tokenizer_without_a_usable_pad_token_is_refused(
    loaded: LoadedModel, pad: str | None
) -> None:
    loaded.tokenizer.pad_token = pad

    with pytest.raises(PlatformError, match="the tokenizer's pad token id is") as caught:
        encode_example(loaded, [{"role": "user", "content": "abc"}], "x")
    assert caught.value.code == "model_invalid"


def test_a_whole_trajectory_is_taken_as_it_was_recorded() -> None:
    loaded = tiny_model()
    content = next("x" * n for n in range(4) if not len(_prompt(loaded, "x" * n)) % 4)
    messages = [{"role": "user", "content": content}]

    example = encode_trace(loaded, messages, [20, 21, 22, 23], [2, 1, 1, 3])

    assert example.unmask_step is not None
    assert example.prompt_ids.tolist() == _prompt(loaded, content)
    assert (example.token_ids.tolist(), example.unmask_step.tolist()) == (
        [20, 21, 22, 23],
        [2, 1, 1, 3],
    )
    arrays = (example.prompt_ids, example.token_ids, example.unmask_step)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
    with pytest.raises(PlatformError, match="Cannot follow a recorded order"):
        encode_trace(loaded, messages, [20, 21, 22, loaded.mask_token_id], [2, 1, 1, 3])


def test_a_trajectory_may_be_one_token_and_that_token_the_first_of_the_vocabulary() -> None:
    loaded = tiny_model()
    content = next("x" * n for n in range(4) if len(_prompt(loaded, "x" * n)) % 4 == 3)

    example = encode_trace(loaded, [{"role": "user", "content": content}], [0], [1])

    assert loaded.sampleable[0]
    assert example.token_ids.tolist() == [0]


@pytest.mark.parametrize(
    ("tokens", "steps"),
    [
        ([20] * 5, [1] * 4),
        ([20] * 5, [1] * 5),
        ([20] * 4, [0, 1, 1, 1]),
        ([20] * 3 + [-1], [1] * 4),
        ([], []),
    ],
    ids=["lengths differ", "no whole block", "a step of 0", "no token", "empty"],
)
def test_a_record_that_is_not_a_whole_trajectory_is_refused(
    tokens: list[int], steps: list[int]
) -> None:
    loaded = tiny_model()
    content = next("x" * n for n in range(4) if not len(_prompt(loaded, "x" * n)) % 4)

    with pytest.raises(PlatformError, match="Cannot follow a recorded order") as caught:
        encode_trace(loaded, [{"role": "user", "content": content}], tokens, steps)
    assert caught.value.code == "dataset_invalid"


def _prompt(loaded: LoadedModel, content: str) -> list[int]:
    return encode_prompt(loaded.tokenizer, [{"role": "user", "content": content}])


@pytest.mark.parametrize("noise", ["document", "trace"])
def test_the_weight_of_an_example_scales_its_loss(noise: Literal["document", "trace"]) -> None:
    ids = np.arange(8, dtype=np.int32)
    examples = [
        SftExample(
            prompt_ids=ids[:4],
            token_ids=ids[4:],
            unmask_step=np.ones(4, np.int32),
            weight=weight,
        )
        for weight in (1.0, 0.25)
    ]
    noisy = [
        add_noise([example], SftSpec(noise=noise), 4, make_noise_generator(0, 0))[0]
        for example in examples
    ]
    assert noisy[1].weight == pytest.approx(0.25 * noisy[0].weight)
