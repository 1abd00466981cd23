"""Checkpoints of the SDAR family as they are published load unchanged, and what we write loads in
LMDeploy.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services.common.model.forward import hidden_states
from services.common.model.index import RowIndex
from services.common.model.loading import LoadedModel, load_model, save_model
from services.common.model.prompts import encode_prompt
from services.common.model.state import export_state
from services.common.model_card import read_model_card
from tests.support import lmdeploy_package
from tests.support.published import CHECKPOINTS, write_checkpoint

Written = tuple[Path, dict[str, torch.Tensor], LoadedModel]


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A directory, its weights, and what was loaded of it."""
    path = tmp_path_factory.mktemp("published") / request.param
    weights = write_checkpoint(request.param, path)
    return path, weights, load_model(path, "bfloat16", "cpu")


def test_a_published_checkpoint_loads_unchanged(checkpoint: Written) -> None:
    path, weights, loaded = checkpoint

    assert (read_model_card(path).block_size, read_model_card(path).mask_token_id) == (4, 151669)
    assert loaded.stop_token_ids == (151643, 151645)
    assert (
        int(loaded.sampleable.sum()) == 151669
    )  # the tokenizer has 151670 ids, one of them the mask
    held = export_state(loaded.model)
    assert held.keys() == weights.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in weights.items())


def test_the_published_prompt_has_its_published_form(checkpoint: Written) -> None:
    ids = encode_prompt(checkpoint[2].tokenizer, [{"role": "user", "content": "1+1?"}])

    text = checkpoint[2].tokenizer.decode(ids)
    assert text == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert (ids[0], ids.count(151645)) == (151644, 1)


def test_what_is_exported_has_the_published_names_and_keys(
    checkpoint: Written, tmp_path: Path
) -> None:
    path, weights, loaded = checkpoint

    save_model(loaded, tmp_path)

    assert load_file(tmp_path / "model.safetensors").keys() == weights.keys()
    ours, theirs = (json.loads((each / "config.json").read_text()) for each in (tmp_path, path))
    shape = ("model_type", "architectures", "hidden_size", "num_hidden_layers", "num_key_value_heads", "head_dim",
             "vocab_size", "tie_word_embeddings", "rms_norm_eps", "rope_theta", "num_experts")  # fmt: skip
    assert {key: ours.get(key) for key in shape} == {key: theirs.get(key) for key in shape}
    assert (ours["block_size"], ours["mask_token_id"]) == (4, 151669)


@pytest.mark.parametrize("exported", [False, True])
def test_lmdeploys_own_configuration_and_loader_take_it(
    checkpoint: Written, exported: bool, tmp_path: Path
) -> None:
    if not lmdeploy_package.is_there():
        pytest.skip(lmdeploy_package.ABSENT)
    lmdeploy_package.put_on_path()
    from tests.support import lmdeploy_models  # noqa: PLC0415 - imports LMDeploy

    path, weights, loaded = checkpoint
    if exported:
        save_model(loaded, tmp_path)
    model, config = lmdeploy_models.load(tmp_path if exported else path, loaded.block_size)

    assert (config.model_paradigm, config.dllm_mask_token, config.head_dim) == ("dllm", 151669, 8)
    held: dict[str, Any] = lmdeploy_models.unpacked(model, loaded.model.config)
    assert held.keys() == weights.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in weights.items())


def test_lmdeploys_own_model_gives_our_logits(tmp_path: Path) -> None:
    """In fp32, with its rotary embedding, norms, packed projections and feed-forward."""
    if not lmdeploy_package.is_there():
        pytest.skip(lmdeploy_package.ABSENT)
    lmdeploy_package.put_on_path()
    from tests.support import lmdeploy_models  # noqa: PLC0415 - imports LMDeploy

    write_checkpoint("DiRL-8B-Instruct", tmp_path / "model")
    tokens = torch.randint(0, 151670, (22,), generator=torch.Generator().manual_seed(0))

    theirs = lmdeploy_models.logits(lmdeploy_models.load(tmp_path / "model", 4)[0], tokens)

    loaded = load_model(tmp_path / "model", "float32", "cpu")
    hidden = hidden_states(loaded.model, tokens, RowIndex.clean(len(tokens), 4))
    torch.testing.assert_close(
        theirs, loaded.model.get_output_embeddings()(hidden), rtol=1e-4, atol=1e-3
    )
