"""`python -m services.rollout.try_model DIR`: decode eight tokens, a check of a converted model."""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from services.common.diffusion.config import DecodingConfig
from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel, load_model
from services.rollout.engines.base import GenerationRequest
from services.rollout.engines.torch_engine import TorchEngine

NEW_TOKENS: Final = 8
_PROMPT: Final = "1 + 1 ="


def main(arguments: list[str] | None = None) -> int:
    """Return exit status 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m services.rollout.try_model", description=__doc__
    )
    parser.add_argument("model", metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        loaded = load_model(
            options.model, "bfloat16", "cuda" if torch.cuda.is_available() else "cpu"
        )
        tokens = decode_tokens(loaded)
    except PlatformError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(" ".join(map(str, tokens)) + "\n")
    return 0


def decode_tokens(loaded: LoadedModel) -> Sequence[int]:
    """Return eight greedy tokens after a short prompt.

    Raises PlatformError("model_invalid") if the model cannot decode them.
    """
    prompt = loaded.tokenizer(_PROMPT, add_special_tokens=False)["input_ids"]
    config = DecodingConfig(
        block_size=loaded.block_size,
        mask_token_id=loaded.mask_token_id,
        stop_token_ids=loaded.stop_token_ids,
        max_new_tokens=NEW_TOKENS,
        temperature=0,
        top_p=1,
        top_k=0,
        unmasking_strategy="sequential",
        selection="max",
        denoising_steps=loaded.block_size,
        confidence_threshold=0.9,
        entropy_bound=0.5,
    )
    request = GenerationRequest(
        request_id="try",
        prompt_ids=np.array(prompt, dtype=np.int32),
        decoding=config,
        seed=0,
        ledger_position=0,
        response_index=0,
    )
    length = len(prompt) + NEW_TOKENS + 2 * loaded.block_size
    engine = TorchEngine(loaded, max_sequence_tokens=length, max_batch_size=1)
    engine.submit([request])
    tokens: Sequence[int] = ()
    while engine.has_work:
        for response in engine.step().values():
            tokens = response.token_ids.tolist()
    if not tokens or not all(bool(loaded.sampleable[token]) for token in tokens):
        raise PlatformError(
            "model_invalid",
            f"The model decoded the tokens {list(tokens)}, which are none or not of its vocabulary.",
            hint="Its weights may be damaged, or hold NaN; check that the source model generates text.",
        )
    return tokens[:NEW_TOKENS]


if __name__ == "__main__":
    sys.exit(main())
