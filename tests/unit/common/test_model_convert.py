"""Decoders become block-diffusion models; the commands that make model directories."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from services.common.errors import PlatformError
from services.common.model.__main__ import main
from services.common.model.convert import convert_model
from services.common.model.loading import load_model
from services.common.model.tiny import character_tokenizer
from services.common.model_card import read_model_card

TOKENIZER = character_tokenizer()
MASK = TOKENIZER.mask_token_id


def _decoder(
    path: Path, kind: type[PreTrainedConfig], *, rows: int = MASK + 4, mask: bool = False
) -> Path:
    """A plain decoder with the character tokenizer, with or without its mask token."""
    experts = (
        {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
        if kind is Qwen3MoeConfig
        else {}
    )
    config = kind(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        eos_token_id=TOKENIZER.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
        dtype="bfloat16",
        **experts,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path)
    (TOKENIZER if mask else _without_mask(TOKENIZER)).save_pretrained(path)
    return path


def _without_mask(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same ids up to the mask's, which is the last."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["content"] != "<|MASK|>"
    ]
    del state["model"]["vocab"]["<|MASK|>"]
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template="x",
    )


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [
        (Qwen3Config, "sdar"),
        (Qwen3MoeConfig, "sdar_moe"),
        (LlamaConfig, "llama"),
        (Phi3Config, "phi3"),
        (Olmo2Config, "olmo2"),
        (GraniteConfig, "granite"),
    ],
)
def test_a_decoder_keeps_its_weights_and_gets_a_mask_and_a_block_length(
    tmp_path: Path, kind: type[PreTrainedConfig], model_type: str
) -> None:
    source = _decoder(tmp_path / "source", kind)

    convert_model(source, tmp_path / "out", 8)

    before, after = (load_file(path / "model.safetensors") for path in (source, tmp_path / "out"))
    assert after.keys() == before.keys()
    learnt = {
        name: slice(0, MASK) if "embed" in name or "lm_head" in name else slice(None)
        for name in before
    }
    assert all(torch.equal(after[name][rows], before[name][rows]) for name, rows in learnt.items())
    card = read_model_card(tmp_path / "out")
    assert (card.model_type, card.block_size, card.mask_token_id) == (model_type, 8, MASK)
    loaded = load_model(tmp_path / "out", "float32", "cpu")
    assert loaded.tokenizer.mask_token_id == MASK
    assert not loaded.sampleable[MASK]


def test_a_mask_token_that_is_there_is_used(tmp_path: Path) -> None:
    source = _decoder(tmp_path / "source", Qwen3Config, mask=True)

    convert_model(source, tmp_path / "out", 4)

    assert len(load_model(tmp_path / "out", "float32", "cpu").tokenizer) == len(TOKENIZER)


def test_a_full_embedding_grows_by_the_mean_of_its_rows(tmp_path: Path) -> None:
    source = _decoder(tmp_path / "source", Qwen3Config, rows=MASK)

    convert_model(source, tmp_path / "out", 4)

    before, after = (load_file(path / "model.safetensors") for path in (source, tmp_path / "out"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][:MASK], before[name])
        torch.testing.assert_close(after[name][MASK], before[name].float().mean(0).bfloat16())


def test_an_impossible_block_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="at least 1"):
        convert_model(tmp_path / "none", tmp_path / "out", 0)


def test_a_vocabulary_with_padding_rows_keeps_its_size_and_the_mask_takes_the_first_of_them(
    tmp_path: Path,
) -> None:
    source = _decoder(tmp_path / "source", Qwen3Config, rows=MASK + 5)

    convert_model(source, tmp_path / "out", 4)

    before, after = (load_file(path / "model.safetensors") for path in (source, tmp_path / "out"))
    embedding = "model.embed_tokens.weight"
    assert after[embedding].shape == before[embedding].shape
    torch.testing.assert_close(
        after[embedding][MASK], before[embedding][:MASK].float().mean(0).bfloat16()
    )
    assert torch.equal(after[embedding][MASK + 1 :], before[embedding][MASK + 1 :])


def test_a_block_diffusion_model_keeps_its_mask_when_its_block_length_is_changed(
    tmp_path: Path,
) -> None:
    convert_model(_decoder(tmp_path / "source", Qwen3Config), tmp_path / "four", 4)

    convert_model(tmp_path / "four", tmp_path / "eight", 8)

    four, eight = (load_file(tmp_path / name / "model.safetensors") for name in ("four", "eight"))
    assert all(torch.equal(four[name], eight[name]) for name in four)
    assert read_model_card(tmp_path / "eight").mask_token_id == MASK


def test_a_mask_token_that_config_and_tokenizer_disagree_on_is_refused(tmp_path: Path) -> None:
    convert_model(_decoder(tmp_path / "source", Qwen3Config), tmp_path / "out", 4)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "mask_token_id": 3}))

    with pytest.raises(
        PlatformError, match=rf"mask token is '<\|MASK\|>' \(id {MASK}\), but config.json names 3"
    ):
        convert_model(tmp_path / "out", tmp_path / "again", 4)


def test_a_mask_token_that_also_ends_sequences_is_refused(tmp_path: Path) -> None:
    source = _decoder(tmp_path / "source", Qwen3Config)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.mask_token = tokenizer.eos_token
    tokenizer.save_pretrained(source)

    with pytest.raises(PlatformError, match="also the end-of-sequence and padding token"):
        convert_model(source, tmp_path / "out", 4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "bert"}, "is a model of type 'bert'; supported are the decoders sdar"),
        ({"model_type": "mistral", "sliding_window": 64}, "has sliding window 64"),
    ],
)
def test_what_block_diffusion_attention_cannot_do_is_refused(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    source = _decoder(tmp_path / "source", MistralConfig)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **change}))

    with pytest.raises(PlatformError, match=reason):
        convert_model(source, tmp_path / "out", 4)


def test_the_commands_write_models_and_say_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, converted = str(tmp_path / "made"), str(tmp_path / "converted")
    shape = ["--hidden-size", "16", "--layers", "1", "--heads", "2"]

    assert main(["make", "--out", made, "--block-size", "2", "--seed", "1", *shape]) == 0
    assert main(["convert", "--source", made, "--out", converted, "--block-size", "16"]) == 0

    assert capsys.readouterr().out.splitlines() == [made, converted]
    assert [read_model_card(path).block_size for path in (made, converted)] == [2, 16]


def test_a_command_that_fails_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 1

    assert "Cannot read config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantised \(fp8\)"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, r"quantised \(awq\)"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantised"),
        ({"eos_token_id": 10**6}, "names eos_token_id 1000000, but the embedding has"),
        ({"pad_token_id": -1}, "names pad_token_id -1, but the embedding has"),
        ({"pad_token_id": [3]}, "Cannot load the model directory .*pad_token_id"),
        ({"hidden_size": "wide"}, "Cannot load the model directory .*hidden_size"),
        ({"eos_token_id": [3, 999999]}, "names eos_token_id 999999, but the embedding has"),
    ],
)
def test_a_config_that_cannot_work_later_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    source = _decoder(tmp_path / "source", Qwen3Config)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **changes}))

    with pytest.raises(PlatformError, match=message) as caught:
        convert_model(source, tmp_path / "out", 4)

    assert caught.value.code == "model_invalid"
    assert not (tmp_path / "out").exists()


def test_a_single_file_beside_shards_is_refused(tmp_path: Path) -> None:
    source = _decoder(tmp_path / "source", LlamaConfig)
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(PlatformError, match=r"has model\.safetensors and shards named in"):
        convert_model(source, tmp_path / "out", 4)


def test_a_head_of_its_own_under_tied_embeddings_is_refused(tmp_path: Path) -> None:
    source = _decoder(tmp_path / "source", LlamaConfig)
    config = json.loads((source / "config.json").read_text())
    assert not config["tie_word_embeddings"]
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))

    with pytest.raises(PlatformError, match=r"an lm_head\.weight that differs from the embedding"):
        convert_model(source, tmp_path / "out", 4)
