"""FlexAttention over packed rows on a GPU, against dense masks; forward and backward, in bf16.

A model of SDAR-1.7B's shape with random weights, activations checkpointed, and one response of R =
1024, 4096 and 8192 tokens after a prompt of 256, blocks of 4, two tokens per step on average:

* packed_flex: the learner's row under FlexAttention, its block mask built from the index vectors;
* packed_sdpa: the same row, SDPA under the same mask as a dense boolean one;
* reference: the published layout, one row `[noisy | clean]` per step rank, one at a time, SDPA under a dense mask.

Tokens per second are response tokens trained; the MFU is that of `services/trainer/training/device_work.py`. What
does not fit into memory says so. Without a CUDA device the script says what is missing and ends
well.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from rows import BLOCK, MASK, Setting, make_sample, reference_rows
from torch import Tensor

from services.common.model.attention import IMPLEMENTATION
from services.common.model.forward import attended_states, hidden_states, token_logprobs
from services.common.model.index import RowIndex, visibility_mask
from services.common.model.loading import LoadedModel
from services.common.model.remote_code.configuration_block_diffusion import SDARConfig
from services.common.model.sdar import SDARForCausalLM
from services.common.model.tiny import character_tokenizer
from services.trainer.training.device_work import model_flops, peak_flops
from services.trainer.training.trajectory_rows import Sample, rl_rows

LENGTHS: Final = (1024, 4096, 8192)


class DenseAttend:
    """SDPA under a boolean mask [T, T], key-value heads repeated."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=self._mask, scale=scaling
        )


def make_model(layers: int, device: str) -> LoadedModel:
    """SDAR-1.7B's shape, random weights."""
    torch.manual_seed(0)
    config = SDARConfig(  # type: ignore[call-arg]  # the signature lacks attn_implementation
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=32768, tie_word_embeddings=True,
        attn_implementation=IMPLEMENTATION,
    )  # fmt: skip
    with torch.device(device):
        model = SDARForCausalLM(config).bfloat16()
    name = "activation_checkpointing_enable"
    getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")(
        {"use_reentrant": False}
    )
    model.train()
    sampleable = torch.arange(config.vocab_size, device=device) != MASK
    return LoadedModel(model, character_tokenizer(), BLOCK, MASK, (0,), sampleable)


Row = tuple[Tensor, RowIndex, Tensor, Tensor]
"""Token ids, index, loss positions and targets."""


def packed(sample: Sample) -> list[Row]:
    """The learner's row."""
    (row,) = rl_rows([sample], block_size=BLOCK, mask_token_id=MASK, max_tokens=1)
    return [(row.token_ids, row.index, row.loss_at, row.targets)]


def published(sample: Sample) -> list[Row]:
    """One row per step rank."""
    return [(row.token_ids, row.index, row.loss_at, row.targets) for row in reference_rows(sample)]


VARIANTS: Final[dict[str, tuple[Callable[[Sample], list[Row]], bool]]] = {
    "packed_flex": (packed, False),
    "packed_sdpa": (packed, True),
    "reference": (published, True),
}
"""Rows, and whether the mask is dense."""


def step(loaded: LoadedModel, rows: list[Row], *, dense: bool) -> None:
    """Forward and backward of all rows, one after the other."""
    for token_ids, index, loss_at, targets in rows:
        if dense:
            attend = DenseAttend(visibility_mask(index, index))
            hidden = attended_states(loaded.model, token_ids[None], index.position[None], attend)[0]
        else:
            hidden = hidden_states(loaded.model, token_ids, index)
        logprobs = token_logprobs(loaded, hidden[loss_at], 1.0).gather(1, targets[:, None])
        (-logprobs.mean()).backward()  # type: ignore[no-untyped-call]


def measure(loaded: LoadedModel, sample: Sample, variant: str, repetitions: int) -> dict[str, Any]:
    """Seconds, memory and utilisation of a step, after one to warm up."""
    build, dense = VARIANTS[variant]
    device = loaded.sampleable.device
    rows = [
        (ids.to(device), index.to(device), at.to(device), to.to(device))
        for ids, index, at, to in build(sample)
    ]
    try:
        step(loaded, rows, dense=dense)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        seconds = min(_timed(loaded, rows, dense=dense) for _ in range(repetitions))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"out_of_memory": True}
    flops, peak = sum(model_flops(loaded, index, len(at)) for _, index, at, _ in rows), peak_flops()
    return {
        "tokens": sum(len(row[0]) for row in rows),
        "seconds": round(seconds, 4),
        "response_tokens_per_s": round(len(sample.response.token_ids) / seconds, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "mfu": None if peak is None else round(flops / seconds / peak, 4),
    }


def _timed(loaded: LoadedModel, rows: list[Row], *, dense: bool) -> float:
    began = time.perf_counter()
    step(loaded, rows, dense=dense)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="two layers and short responses: a test of the script"
    )
    quick = parser.parse_args().quick
    fields = {"benchmark": "gpu_attention", "torch": torch.__version__}
    if not torch.cuda.is_available():
        print(
            json.dumps(
                {**fields, "missing": "a CUDA device: torch.cuda.is_available() is false here"}
            )
        )
        return
    loaded = make_model(layers=2 if quick else 28, device="cuda")
    for length in (256, 512) if quick else LENGTHS:
        sample = make_sample(Setting(length, 2))
        found = {
            variant: measure(loaded, sample, variant, 1 if quick else 3) for variant in VARIANTS
        }
        ours = found["packed_flex"].get("seconds", math.nan)
        ratios = {f"times_less_wall_than_{name}": round(cost["seconds"] / ours, 2)
                  for name, cost in found.items() if name != "packed_flex" and "seconds" in cost}  # fmt: skip
        print(
            json.dumps(
                {
                    **fields,
                    "device": torch.cuda.get_device_name(),
                    "response_tokens": length,
                    **found,
                    **ratios,
                }
            )
        )


if __name__ == "__main__":
    main()
