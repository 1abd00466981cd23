"""The estimate of a training pass's memory, against what the learner's own pass keeps."""

from typing import Any

import numpy as np
import pytest
import torch

from services.api.domain.activations import Shape, activation_bytes, row_tokens
from services.api.domain.estimate import estimate_resources, find_objections
from services.common.job_spec import JobSpec
from services.common.model.attention import IMPLEMENTATION
from services.common.model.loading import LoadedModel
from services.common.model.remote_code.configuration_block_diffusion import SDARConfig
from services.common.model.sdar import SDARForCausalLM
from services.common.model.tiny import character_tokenizer
from services.trainer.training.policy import score_row
from services.trainer.training.trajectory_rows import PackedRow, Sample, rl_rows
from tests.support.numerics import response_of

VOCABULARY = 64
BLOCK = 4


def spec_of(**sections: Any) -> JobSpec:
    return JobSpec.model_validate({"model": "m", "method": "rl", "training_file": "f", **sections})


def model_of(**sizes: int) -> LoadedModel:
    config = SDARConfig(vocab_size=VOCABULARY, attn_implementation=IMPLEMENTATION, **sizes)
    sampleable = torch.arange(VOCABULARY) != VOCABULARY - 1
    return LoadedModel(
        SDARForCausalLM(config), character_tokenizer(), BLOCK, VOCABULARY - 1, (0,), sampleable
    )


def row_of(tokens: int) -> PackedRow:
    """A response of one token per step."""
    ids = np.arange(tokens, dtype=np.int32) % (VOCABULARY - 1)
    sample = Sample(
        trajectory_id="t", prompt_ids=ids[:BLOCK], advantage=1.0,
        response=response_of(ids, np.arange(1, tokens + 1, dtype=np.int32), np.zeros(tokens)),
    )  # fmt: skip
    [row] = rl_rows([sample], block_size=BLOCK, mask_token_id=VOCABULARY - 1, max_tokens=1)
    return row


def kept_bytes(loaded: LoadedModel, row: PackedRow) -> int:
    """Of what the pass saves for its backward pass, weights apart."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        score_row(loaded, row, 1.0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in loaded.model.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize(
    "sizes",
    [
        {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
        },
        {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 32,
        },
        {
            "hidden_size": 64,
            "intermediate_size": 512,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
        },
    ],
    ids=["even", "grouped heads", "wide feed-forward"],
)
def test_a_layer_keeps_about_what_is_estimated(sizes: dict[str, int]) -> None:
    """The estimate has two layers more, for computing: with it taken away, what is kept remains."""
    row, spec = row_of(64), spec_of()
    kept = [kept_bytes(model_of(num_hidden_layers=layers, **sizes), row) for layers in (2, 6)]
    shapes = [
        Shape.of({"vocab_size": VOCABULARY, "num_hidden_layers": layers, **sizes})
        for layers in (2, 6)
    ]

    foretold = [
        activation_bytes(shape, spec, len(row.token_ids)) for shape in shapes if shape is not None
    ]

    assert foretold[1] - foretold[0] == pytest.approx(kept[1] - kept[0], rel=0.15)


def test_checkpointing_keeps_a_layers_input_only() -> None:
    shape = Shape(layers=100, hidden=8, inner=16, query=8, key_value=8, vocabulary=10)
    full, sparing = (
        activation_bytes(shape, spec_of(trainer={"gradient_checkpointing": on}), 50)
        for on in (False, True)
    )

    assert sparing < full / 10


def test_a_model_of_unknown_shape_has_no_estimate() -> None:
    assert Shape.of({"hidden_size": 8}) is None


def test_experts_count_as_many_as_a_token_is_sent_to() -> None:
    config = {"num_attention_heads": 2, "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
    sparse = Shape.of(
        {**config, "intermediate_size": 99, "moe_intermediate_size": 5, "num_experts_per_tok": 3}
    )

    assert sparse is not None
    assert sparse.inner == 15


def test_a_row_is_no_longer_than_a_step_has_tokens_and_no_shorter_than_its_longest_sample() -> None:
    rl = {"prompts_per_step": 4, "num_generations": 2, "min_groups_per_step": 1}

    assert row_tokens(spec_of(rl=rl), 10) == 4 * 2 * 10 * 3
    assert row_tokens(spec_of(rl=rl, trainer={"max_tokens_per_microbatch": 50}), 10) == 50
    assert row_tokens(spec_of(rl=rl, trainer={"max_tokens_per_microbatch": 5}), 10) == 30
    assert row_tokens(spec_of(method="sft", sft={"batch_size": 2}), 10) == 2 * 10 * 2


def test_a_pass_that_does_not_fit_beside_the_weights_is_objected_to() -> None:
    def problems(memory: int | None) -> list[str]:
        found = find_objections(
            estimate_resources(1000, 5000, spec_of(), memory, 10**9), None, spec_of()
        )
        return [problem.path for problem in found]

    assert problems(21_000) == []
    assert problems(20_999) == ["trainer.max_tokens_per_microbatch"]
    assert problems(15_999) == ["model"]
    assert problems(None) == []
