"""LoRA: only the adapter trains, what is published is the merged model, and with the adapter off
the base answers.
"""

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear

from services.common.errors import PlatformError
from services.common.job_spec import LoraSpec, OptimSpec, SftSpec, TrainerSpec
from services.common.model.loading import LoadedModel, load_model, save_model
from services.common.model.state import export_state, own_state
from services.common.model.tiny import make_tiny_model
from services.trainer.training import lora
from services.trainer.training.policy import (
    AdapterOffReferencePolicy,
    Policy,
    train_sft_batch,
)
from services.trainer.training.schedule import make_optimizer
from services.trainer.training.sft import SftExample, make_noise_generator
from tests.support.numerics import random_samples, row_of, scores

LORA = LoraSpec(rank=3, alpha=6)


@pytest.fixture(params=[False, True], ids=["dense", "mixture"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedModel:
    make_tiny_model(tmp_path / "tiny", seed=0, hidden_size=16, layers=2, heads=2, moe=request.param)
    return load_model(tmp_path / "tiny", "float32", "cpu")


@pytest.fixture
def trained(loaded: LoadedModel) -> LoadedModel:
    """The model after a few steps of its adapter."""
    lora.attach_adapter(loaded, LORA, seed=1)
    optimizer = make_optimizer(loaded.model, OptimSpec(lr=1e-2))
    examples = [
        SftExample(prompt_ids=s.prompt_ids, token_ids=s.response.token_ids)
        for s in random_samples(loaded, 4)
    ]
    policy = Policy(loaded=loaded, trainer=TrainerSpec())
    for step in range(3):
        train_sft_batch(
            policy, optimizer, examples, make_noise_generator(0, step), SftSpec(), OptimSpec()
        )
    return loaded


def test_a_new_adapter_changes_nothing(loaded: LoadedModel) -> None:
    before, weights = (
        scores(loaded),
        {name: tensor.clone() for name, tensor in own_state(loaded.model).items()},
    )

    lora.attach_adapter(loaded, LORA, seed=1)

    merged = lora.merge_adapter(loaded.model, own_state(loaded.model))
    assert merged.keys() == weights.keys()
    assert all(torch.equal(merged[name], weights[name]) for name in weights)
    assert torch.equal(scores(loaded), before)


def test_the_adapter_has_the_rank_and_the_scale_of_the_job(loaded: LoadedModel) -> None:
    lora.attach_adapter(loaded, LORA, seed=1)

    layers = [part for part in loaded.model.modules() if isinstance(part, LoraLinear)]
    assert layers
    assert {layer.r["default"] for layer in layers} == {3}
    assert {layer.scaling["default"] for layer in layers} == {6 / 3}
    assert {layer.lora_A["default"].weight.shape[0] for layer in layers} == {3}


def test_the_decoders_linear_layers_are_known_by_their_last_name(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "dense", seed=0, hidden_size=16, layers=1, heads=2)
    names = lora.linear_layers(load_model(tmp_path / "dense", "float32", "cpu").model)

    assert " ".join(names) == "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"


def test_training_moves_the_adapter_alone(
    loaded: LoadedModel, trained: LoadedModel, tmp_path: Path
) -> None:
    base = load_model(tmp_path / "tiny", "float32", "cpu").model.state_dict()

    trainable = {
        name for name, parameter in trained.model.named_parameters() if parameter.requires_grad
    }
    assert trainable == lora.adapter_tensors(own_state(trained.model)).keys()
    kept = {
        name.replace(".base_layer", ""): t
        for name, t in own_state(trained.model).items()
        if ".lora_" not in name
    }
    assert all(torch.equal(kept[name], base[name]) for name in kept)
    merged = lora.merge_adapter(trained.model, own_state(trained.model))
    assert not torch.equal(
        merged["model.layers.0.self_attn.q_proj.weight"],
        base["model.layers.0.self_attn.q_proj.weight"],
    )


def test_the_merged_directory_computes_what_the_adapter_does(
    trained: LoadedModel, tmp_path: Path
) -> None:
    merged = lora.merge_adapter(trained.model, own_state(trained.model))

    save_model(trained, tmp_path / "out", merged)

    again = load_model(tmp_path / "out", "float32", "cpu")
    stored, published = export_state(again.model), export_state(trained.model, merged)
    assert stored.keys() == published.keys()
    assert all(torch.equal(stored[name], published[name]) for name in stored)
    torch.testing.assert_close(scores(again), scores(trained), rtol=1e-5, atol=1e-5)


def test_with_the_adapter_off_the_base_answers(trained: LoadedModel, tmp_path: Path) -> None:
    base = load_model(tmp_path / "tiny", "float32", "cpu")
    with_adapter = scores(trained)

    with lora.disable_adapter(trained.model):
        off = scores(trained)

    assert torch.equal(off, scores(base))
    reference = AdapterOffReferencePolicy(Policy(loaded=trained, trainer=TrainerSpec()))
    assert torch.equal(reference.logprobs(row_of(trained), 1.0), off)
    assert not torch.allclose(off, with_adapter)
    assert torch.equal(scores(trained), with_adapter)
    assert any(parameter.requires_grad for parameter in trained.model.parameters())


def test_a_stored_adapter_is_restored_bit_for_bit(trained: LoadedModel, tmp_path: Path) -> None:
    stored = {
        name: tensor.clone()
        for name, tensor in lora.adapter_tensors(own_state(trained.model)).items()
    }
    again = load_model(tmp_path / "tiny", "float32", "cpu")
    lora.attach_adapter(again, LORA, seed=2)

    lora.restore_adapter(again.model, stored)

    assert torch.equal(scores(again), scores(trained))
    with pytest.raises(PlatformError, match="Cannot load the adapter"):
        lora.restore_adapter(again.model, dict(list(stored.items())[1:]))


@pytest.mark.parametrize(
    "targets", [("nothing_proj",), ("q_proj", "nothing_proj"), ("embed_tokens",)]
)
def test_target_modules_that_are_no_linear_layers_are_refused(
    loaded: LoadedModel, targets: tuple[str, ...]
) -> None:
    with pytest.raises(PlatformError, match="Cannot attach the LoRA adapter") as caught:
        lora.attach_adapter(loaded, LoraSpec(target_modules=targets), seed=0)
    assert caught.value.param == "lora.target_modules"
