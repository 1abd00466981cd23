"""GGUF files become block-diffusion models: weights, tokenizer and template as they were, or a
clear refusal.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from services.common.errors import PlatformError
from services.common.model.convert import convert_model
from services.common.model.loading import LoadedModel, load_model
from services.common.model.prompts import encode_prompt
from services.common.model.state import export_state
from tests.support.gguf_files import (
    HEADS,
    dequantised,
    llama,
    reference_tokenizer,
    vocabulary,
    write_gguf,
)

MASK = len(vocabulary())
TEXTS = ["12 + 121 = 133", "ab\n\n1 ab  ab12", "é 日本 <|im_end|>\n\nab"]


def _converted(tmp_path: Path, **options: Any) -> LoadedModel:
    convert_model(write_gguf(tmp_path / "tiny.gguf", llama(), **options), tmp_path / "out", 4)
    return load_model(tmp_path / "out", "float32", "cpu")


def _expected() -> dict[str, Tensor]:
    return {
        name: tensor for name, tensor in llama().state_dict().items() if name != "lm_head.weight"
    }


def test_unquantised_weights_arrive_bit_for_bit_and_the_mask_row_starts_at_the_mean(
    tmp_path: Path,
) -> None:
    loaded = _converted(tmp_path)

    got, expected = export_state(loaded.model), _expected()
    embedding = "model.embed_tokens.weight"
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected.keys() - {embedding})
    assert torch.equal(got[embedding][:MASK], expected[embedding])
    torch.testing.assert_close(got[embedding][MASK], expected[embedding].mean(0))
    assert (len(got[embedding]) % 64, loaded.mask_token_id, loaded.block_size) == (0, MASK, 4)


def test_quantised_weights_are_dequantised(tmp_path: Path) -> None:
    got, expected = export_state(_converted(tmp_path, quantised=True).model), _expected()

    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.v_proj.weight"):
        assert torch.equal(got[name], torch.from_numpy(dequantised(expected[name].numpy())))
    query = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(got[query], expected[query], rtol=0, atol=1e-3)
    assert not torch.equal(got[query], expected[query])


def test_the_model_computes_what_the_original_does(tmp_path: Path) -> None:
    loaded, ids = _converted(tmp_path), torch.tensor([[5, 70, 33, 8]])

    # Block length 1 would be causal attention; here the weights are put into the original
    # architecture instead.
    original = llama().eval()
    again = llama().eval()
    state = {
        name: tensor[:MASK] if "embed" in name else tensor
        for name, tensor in loaded.model.state_dict().items()
    }
    again.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})

    assert loaded.model.config.rope_parameters["rope_theta"] == 5000.0
    assert loaded.model.config.num_attention_heads == HEADS
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, original(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_split_as_the_vocabulary_was_trained(tmp_path: Path, text: str) -> None:
    """Transformers does not know the pre-tokenizer: it would merge 1 and 2, and cut the newlines
    before a digit.
    """
    loaded = _converted(tmp_path)

    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]

    assert ids == reference_tokenizer().encode(text, add_special_tokens=False).ids
    assert loaded.tokenizer.decode(ids) == text


def test_the_chat_template_and_the_end_of_turn_arrive(tmp_path: Path) -> None:
    loaded = _converted(tmp_path)

    prompt = encode_prompt(loaded.tokenizer, [{"role": "user", "content": "1+2"}])

    assert (
        loaded.tokenizer.decode(prompt)
        == "<|im_start|>user\n1+2<|im_end|>\n<|im_start|>assistant\n"
    )
    assert loaded.stop_token_ids == (MASK - 1,)
    assert loaded.tokenizer.pad_token_id == MASK - 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"architecture": "gemma"}, "of architecture 'gemma'; supported are llama, qwen2"),
        ({"llama__attention__sliding_window": 128}, "a sliding window of 128"),
        ({"llama__rope__scaling__type": "yarn"}, r"scales its rotary positions \(yarn\)"),
        ({"split__count": 3}, "is one of 3 parts.* llama-gguf-split --merge"),
        ({"tokenizer__ggml__pre": "viking"}, "pre-tokenizer 'viking'"),
        ({"tokenizer__ggml__model": "llama"}, "a tokenizer of kind 'llama'"),
    ],
)
def test_what_would_be_lost_is_refused(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PlatformError, match=reason):
        _converted(tmp_path, **options)


def test_a_tensor_that_the_model_has_no_place_for_is_refused(tmp_path: Path) -> None:
    model = llama()
    file = write_gguf(tmp_path / "tiny.gguf", model)
    file.write_bytes(
        file.read_bytes().replace(b"blk.0.attn_norm.weight", b"blk.0.rope_frqs.weight", 1)
    )

    with pytest.raises(
        PlatformError, match=r"has tensors blk\.0\.rope_frqs\.weight; which llama does not have"
    ):
        convert_model(file, tmp_path / "out", 4)


def test_a_file_that_is_not_in_the_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04" + bytes(100))

    with pytest.raises(PlatformError, match=r"Cannot load the model directory .*model\.gguf"):
        convert_model(tmp_path, tmp_path / "out", 4)


def test_several_files_in_a_directory_must_be_chosen_from(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()

    with pytest.raises(PlatformError, match=r"2 GGUF files: a\.gguf, b\.gguf"):
        convert_model(tmp_path, tmp_path / "out", 4)


def test_without_the_package_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "gguf", None
    )  # an environment without the extra would take minutes to build

    with pytest.raises(PlatformError, match="needs the packages gguf") as caught:
        convert_model(tmp_path / "model.gguf", tmp_path / "out", 4)
    assert caught.value.code == "preflight_failed"
    assert "dirl-platform[gguf]" in str(caught.value)
