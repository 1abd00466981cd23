"""Tokens per second of the rollout engine against plain decoding, on one thread; one JSON object
per batch size.

Both decode the same prompts greedily with the same random model (width 256, 4 layers, 4 heads,
block length 4), two tokens per denoising step, in fp32. The reference is the textbook loop: one
response at a time, and at every step a forward over the whole sequence so far under the
block-causal mask, without a cache; logits are computed for the last block only. The engine keeps
keys and values of finished blocks and decodes all responses of the batch side by side. `equal` says
whether both gave the same tokens. The reference decodes two responses at most; its speed does not
depend on their number.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.diffusion.rules import commit_mask, confidences
from services.common.diffusion.sampling import scaled_logprobs
from services.common.model.forward import attended_states, token_logits
from services.common.model.loading import LoadedModel, load_model
from services.common.model.tiny import make_tiny_model
from services.common.trajectory import Int32s
from services.rollout.engines.base import GenerationRequest
from services.rollout.engines.torch_engine import TorchEngine

PROMPT_TOKENS = 64
REFERENCE_RESPONSES = 2


class PlainAttend:
    """Attention of a whole sequence under the block-causal mask, as one dense SDPA."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """See services.common.model.attention.Attend."""
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )


@torch.inference_mode()
def decode_plainly(loaded: LoadedModel, prompt: Int32s, config: DecodingConfig) -> list[int]:
    """Response tokens; the prompt fills whole blocks."""
    size = config.block_size
    total = len(prompt) + config.max_new_tokens
    block = torch.arange(total) // size
    mask = block[None] <= block[:, None]
    tokens = torch.full((total,), config.mask_token_id)
    tokens[: len(prompt)] = torch.from_numpy(prompt)
    for end in range(len(prompt) + size, total + 1, size):
        masked = torch.ones(1, size, dtype=torch.bool)
        while masked.any():
            attend = PlainAttend(mask[:end, :end])
            hidden = attended_states(
                loaded.model, tokens[None, :end], torch.arange(end)[None], attend
            )
            logprobs = scaled_logprobs(config, token_logits(loaded, hidden[0, -size:]))[None]
            candidates = logprobs.argmax(-1)
            commit = commit_mask(
                config, masked, confidences(config, logprobs, candidates), logprobs
            )
            tokens[end - size : end] = torch.where(commit, candidates, tokens[end - size : end])[0]
            masked &= ~commit
    return tokens[len(prompt) :].tolist()


def decode_together(
    loaded: LoadedModel, prompts: list[Int32s], config: DecodingConfig
) -> list[list[int]]:
    """Response tokens by prompt, from the engine."""
    needed = PROMPT_TOKENS + config.max_new_tokens
    engine = TorchEngine(loaded, max_sequence_tokens=needed, max_batch_size=len(prompts))
    engine.submit([_request(number, prompt, config) for number, prompt in enumerate(prompts)])
    done: dict[str, list[int]] = {}
    while engine.has_work:
        done |= {id_: each.token_ids.tolist() for id_, each in engine.step().items()}
    return [done[str(number)] for number in range(len(prompts))]


def _request(number: int, prompt: Int32s, config: DecodingConfig) -> GenerationRequest:
    return GenerationRequest(
        request_id=str(number),
        prompt_ids=prompt,
        decoding=config,
        seed=0,
        ledger_position=number,
        response_index=0,
    )


def _config(loaded: LoadedModel, response: int) -> DecodingConfig:
    return DecodingConfig(
        block_size=loaded.block_size,
        denoising_steps=loaded.block_size // 2,
        unmasking_strategy=UnmaskingStrategy.LOW_CONFIDENCE_STATIC,
        confidence_threshold=0.0,
        entropy_bound=0.0,
        selection=Selection.MAX,
        mask_token_id=loaded.mask_token_id,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=response,
        stop_token_ids=(),
    )


def _model() -> LoadedModel:
    with tempfile.TemporaryDirectory() as directory:
        make_tiny_model(directory, seed=0, hidden_size=256, layers=4, heads=4)
        return load_model(Path(directory), "float32", "cpu")


def measure(loaded: LoadedModel, batch: int, response: int, repeats: int) -> dict[str, object]:
    """Median tokens per second of both, the runs alternating."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 96, PROMPT_TOKENS).astype(np.int32) for _ in range(batch)]
    config, plain = _config(loaded, response), prompts[:REFERENCE_RESPONSES]
    plain_s, engine_s, equal = [], [], True
    for _ in range(repeats):
        started = time.perf_counter()
        reference = [decode_plainly(loaded, prompt, config) for prompt in plain]
        plain_s.append((time.perf_counter() - started) / len(plain))
        started = time.perf_counter()
        ours = decode_together(loaded, prompts, config)
        engine_s.append((time.perf_counter() - started) / batch)
        equal = equal and ours[: len(plain)] == reference
    reference_rate, engine_rate = (
        response / statistics.median(plain_s),
        response / statistics.median(engine_s),
    )
    return {
        "benchmark": "engine",
        "batch": batch,
        "response_tokens": response,
        "prompt_tokens": PROMPT_TOKENS,
        "reference_tokens_per_s": round(reference_rate, 1),
        "engine_tokens_per_s": round(engine_rate, 1),
        "ratio": round(engine_rate / reference_rate, 2),
        "equal": equal,
    }


def main() -> int:
    """Entry point; fails when the tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="response of 32 tokens, batch 1 and 4, once"
    )
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    loaded = _model()
    equal = True
    for batch in (1, 4) if quick else (1, 4, 16, 64):
        results = measure(loaded, batch, response=32 if quick else 256, repeats=1 if quick else 3)
        print(json.dumps(results), flush=True)
        equal = equal and results["equal"] is True
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
