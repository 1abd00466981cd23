"""Model directories: complete ones load and save unchanged, anything else is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
)

from services.common.errors import PlatformError
from services.common.model.forward import hidden_states, token_logprobs
from services.common.model.index import RowIndex
from services.common.model.loading import LoadedModel, load_model, load_skeleton, save_model
from services.common.model.sdar import FAMILIES
from services.common.model.state import export_state, import_state
from services.common.model.tiny import make_tiny_model
from services.common.model_card import ModelCard, read_model_card
from tests.support.families import FAMILY_CONFIGS, ROWS, TOKENIZER

MASK = TOKENIZER.mask_token_id


def _tiny(path: Path, **options: Any) -> Path:
    make_tiny_model(path, **{"seed": 0, "hidden_size": 16, "layers": 2, "heads": 2, **options})
    return path


def _edit_config(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def _edit_weights(path: Path, name: str, tensor: torch.Tensor | None) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def _bytes(loaded: LoadedModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in export_state(loaded.model).items()}


def _refused(path: Path, match: str) -> None:
    with pytest.raises(PlatformError, match=match) as caught:
        load_model(path, torch.float32, "cpu")
    assert caught.value.code == "model_invalid"


def test_a_tiny_model_has_everything_that_a_model_needs(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, seed=0)

    loaded = load_model(tmp_path, "float32", "cpu")

    assert 350_000 < sum(parameter.numel() for parameter in loaded.model.parameters()) < 370_000
    assert read_model_card(tmp_path) == ModelCard("sdar", 4, MASK, ROWS, 2048)
    ids = loaded.tokenizer.get_vocab()
    assert loaded.mask_token_id == ids["<|MASK|>"]
    assert loaded.stop_token_ids == tuple(sorted((ids["<|im_end|>"], ids["<|endoftext|>"])))
    assert loaded.sampleable.tolist() == [
        token < len(TOKENIZER) and token != MASK for token in range(ROWS)
    ]
    assert len(TOKENIZER) < ROWS
    assert bool(loaded.sampleable[loaded.tokenizer.pad_token_id])


@pytest.mark.parametrize("moe", [False, True])
def test_the_seed_decides_the_weights(tmp_path: Path, moe: bool) -> None:
    one, same, other = (
        (_tiny(tmp_path / name, seed=seed, moe=moe) / "model.safetensors").read_bytes()
        for name, seed in (("one", 3), ("same", 3), ("other", 4))
    )

    assert one == same != other


@pytest.mark.parametrize("moe", [False, True])
def test_a_model_saves_and_loads_under_its_own_names_unchanged(tmp_path: Path, moe: bool) -> None:
    first = load_model(_tiny(tmp_path / "first", moe=moe), torch.float32, "cpu")

    save_model(first, tmp_path / "second")
    second = load_model(tmp_path / "second", torch.float32, "cpu")

    assert _bytes(second) == _bytes(first)
    assert set(load_file(tmp_path / "second/model.safetensors")) == set(_bytes(first))
    assert (second.block_size, second.stop_token_ids) == (first.block_size, first.stop_token_ids)
    config = json.loads((tmp_path / "second/config.json").read_text())
    assert config["architectures"] == ["SDARMoeForCausalLM" if moe else "SDARForCausalLM"]
    assert config["rope_theta"] == 10_000.0
    assert config.get("num_experts") == (4 if moe else None)


def test_experts_are_stored_one_by_one(tmp_path: Path) -> None:
    names = set(load_file(_tiny(tmp_path, moe=True) / "model.safetensors"))

    experts = {
        f"model.layers.0.mlp.experts.{e}.{m}_proj.weight"
        for e in range(4)
        for m in ("gate", "up", "down")
    }
    assert experts | {"model.layers.0.mlp.gate.weight"} <= names


@pytest.mark.parametrize("moe", [False, True])
def test_a_skeleton_is_zero_until_weights_are_pushed_into_it(tmp_path: Path, moe: bool) -> None:
    whole = load_model(_tiny(tmp_path, moe=moe), torch.float32, "cpu")
    (tmp_path / "model.safetensors").unlink()

    skeleton = load_skeleton(tmp_path, torch.float32, "cpu")
    before = _bytes(skeleton)
    import_state(skeleton.model, export_state(whole.model))

    assert all(set(data) == {0} for data in before.values())
    assert _bytes(skeleton) == _bytes(whole)
    assert (skeleton.stop_token_ids, skeleton.block_size) == (
        whole.stop_token_ids,
        whole.block_size,
    )
    tokens, index = torch.arange(8), RowIndex.clean(8, 4)
    assert torch.equal(*(hidden_states(each.model, tokens, index) for each in (skeleton, whole)))


def test_weights_are_cast_to_the_models_dtype(tmp_path: Path) -> None:
    whole = load_model(_tiny(tmp_path), torch.float32, "cpu")
    half = load_skeleton(tmp_path, "bfloat16", "cpu")

    import_state(half.model, export_state(whole.model))

    expected = whole.model.get_output_embeddings().weight.bfloat16()
    assert torch.equal(half.model.get_output_embeddings().weight, expected)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop("model.norm.weight"), r"1 are missing \(model.norm.weight\)"),
        (lambda state: state.update(more=torch.zeros(1)), r"1 are unexpected \(more\)"),
        (
            lambda state: state.update({"model.norm.weight": torch.zeros(3)}),
            r"model.norm.weight \[3\] instead of \[16\]",
        ),
    ],
)
def test_weights_that_are_not_the_models_are_refused_before_anything_is_written(
    tmp_path: Path, change: Any, match: str
) -> None:
    loaded = load_model(_tiny(tmp_path), torch.float32, "cpu")
    before = _bytes(loaded)
    state = {name: torch.ones_like(tensor) for name, tensor in export_state(loaded.model).items()}
    change(state)

    with pytest.raises(PlatformError, match=match):
        import_state(loaded.model, state)

    assert _bytes(loaded) == before


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path / "none", "Cannot read config.json")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"model_type": "qwen3", "block_size": ..., "mask_token_id": ...},
            "block_size is missing; mask_token_id is missing",
        ),
        ({"mask_token_id": ...}, "mask_token_id 151669"),
        ({"mask_token_id": "5"}, "mask_token_id is '5', not an integer"),
        ({"mask_token_id": ROWS}, f"one of the {ROWS} rows"),
        ({"block_size": 0}, "block_size 0"),
        ({"num_hidden_layers": 3, "layer_types": ...}, "missing keys.*model.layers.2"),
        ({"num_hidden_layers": 1, "layer_types": ...}, "unexpected keys.*model.layers.1"),
        ({"intermediate_size": 8}, "Cannot load|do not fit"),
        ({"attention_dropout": 0.1}, "attention dropout 0.1"),
        ({"model_type": "gemma3_text"}, "gemma3_text"),
        ({"model_type": "unheard_of"}, "unheard_of"),
    ],
)
def test_a_config_that_does_not_describe_the_weights_is_refused(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    _edit_config(_tiny(tmp_path), **changes)

    _refused(tmp_path, match)


def test_missing_and_unknown_weights_are_refused(tmp_path: Path) -> None:
    _edit_weights(_tiny(tmp_path / "missing"), "model.norm.weight", None)
    _edit_weights(_tiny(tmp_path / "unknown"), "model.surplus.weight", torch.zeros(2))

    _refused(tmp_path / "missing", "missing keys.*model.norm.weight")
    _refused(tmp_path / "unknown", "unexpected keys.*model.surplus.weight")


def test_a_directory_without_weights_or_with_broken_ones_is_refused(tmp_path: Path) -> None:
    weights = _tiny(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    _refused(tmp_path, "Cannot load the model directory")

    weights.unlink()

    _refused(tmp_path, "Cannot load the model directory")


def _written(config: PreTrainedConfig, path: Path) -> Path:
    """A directory of the family with random weights, made a block-diffusion model of block length
    1.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    _edit_config(path, block_size=1, mask_token_id=MASK)
    return path


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_block_length_one_equals_the_causal_forward_on_prefix_and_mask(
    tmp_path: Path, family: str
) -> None:
    loaded = load_model(_written(FAMILY_CONFIGS[family], tmp_path), torch.float32, "cpu")
    causal = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    prefix = torch.tensor([5, 17, 3, 44, 90])

    for length in range(len(prefix)):
        tokens = torch.cat([prefix[:length], torch.tensor([loaded.mask_token_id])])
        logits = (
            causal(input_ids=tokens[None]).logits[0, -1].masked_fill(~loaded.sampleable, -torch.inf)
        )
        ours = token_logprobs(
            loaded, hidden_states(loaded.model, tokens, RowIndex.clean(len(tokens), 1)), 1.0
        )[-1]

        torch.testing.assert_close(ours, logits.log_softmax(-1), rtol=1e-5, atol=1e-5)


def test_a_sliding_window_is_refused(tmp_path: Path) -> None:
    _edit_config(_written(FAMILY_CONFIGS["mistral"], tmp_path), sliding_window=128)

    _refused(tmp_path, "sliding window 128")


def test_rotary_frequencies_that_change_with_the_length_are_refused(tmp_path: Path) -> None:
    _edit_config(
        _written(FAMILY_CONFIGS["llama"], tmp_path),
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0},
    )

    _refused(tmp_path, "rotary embeddings of type 'dynamic'")


@torch.no_grad()
def test_logprobs_are_fp32_of_half_precision_models_and_fp64_of_double_ones(tmp_path: Path) -> None:
    _tiny(tmp_path)
    tokens, index = torch.arange(8), RowIndex.clean(8, 4)

    for dtype, expected in (("bfloat16", torch.float32), ("float64", torch.float64)):
        loaded = load_model(tmp_path, dtype, "cpu")
        logprobs = token_logprobs(loaded, hidden_states(loaded.model, tokens, index), 0.5)

        assert logprobs.dtype == expected
        assert bool((logprobs[:, ~loaded.sampleable] == -torch.inf).all())
        torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(8, dtype=expected))


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="Unknown dtype 'int8'"):
        load_model(_tiny(tmp_path), "int8", "cpu")
