"""What a training step costs with one packed row per response, against the published layout;
forward and backward.

A response of R tokens after a prompt of 256, in blocks of 4 whose number of denoising steps is
drawn from {1: 0.4, 2: 0.3, 3: 0.2, 4: 0.1}, two tokens per step on average (and, at R = 1024, one
and four). One model of width 256, 4 layers, 4 heads, vocabulary 1,024, in fp32; one process per
measurement, the same kernel and number of threads in all:

* ours: the learner's own row `[clean | states]`;
* reference: as published, one row `[noisy | clean]` per step rank, unpadded, one row at a time, a dense boolean mask;
* reference_own_attention: the same rows under our attention, which computes visible pairs only;
* reference_batch: all of the response's rows in one batch, forward only, for the memory alone: a lower bound of it.

Seconds are the best of some repetitions, peak memory is what a step adds to the resident set. All
variants must agree on the loss. The last line gives the exponents a of cost ~ R^a, by least squares
over all R at two tokens per step.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from services.common.model.attention import IMPLEMENTATION
from services.common.model.forward import attended_states, hidden_states, token_logprobs
from services.common.model.index import RowIndex, visibility_mask
from services.common.model.loading import LoadedModel
from services.common.model.remote_code.configuration_block_diffusion import SDARConfig
from services.common.model.sdar import SDARForCausalLM
from services.common.model.tiny import character_tokenizer
from services.trainer.training.policy import score_row
from services.trainer.training.trajectory_rows import Sample, rl_rows
from tests.support.numerics import response_of

BLOCK, VOCABULARY = 4, 1024
MASK = VOCABULARY - 1
STEPS_PER_BLOCK = {1: [0, 0, 0, 1.0], 2: [0.4, 0.3, 0.2, 0.1], 4: [1.0, 0, 0, 0]}
"""Tokens per step on average to the probabilities of 1, 2, 3 and 4 steps in a block."""
VARIANTS = ("ours", "reference", "reference_own_attention", "reference_batch")


@dataclass(frozen=True)
class Setting:
    """One response."""

    response_tokens: int
    tokens_per_step: int
    prompt_tokens: int = 256
    width: int = 256
    repetitions: int = 1


@dataclass(frozen=True)
class Cost:
    """One variant's step."""

    tokens: int
    seconds: float
    peak_mib: float
    loss: float


class DenseAttend:
    """SDPA under a boolean mask [T, T]."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=self._mask, scale=scaling
        )


def make_model(width: int) -> LoadedModel:
    """Random weights."""
    torch.manual_seed(0)
    config = SDARConfig(  # type: ignore[call-arg]  # the signature lacks attn_implementation
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, head_dim=width // 4, max_position_embeddings=8192,
        attn_implementation=IMPLEMENTATION,
    )  # fmt: skip
    sampleable = torch.arange(VOCABULARY) != MASK
    return LoadedModel(
        SDARForCausalLM(config), character_tokenizer(), BLOCK, MASK, (0,), sampleable
    )


def make_sample(setting: Setting) -> Sample:
    """A response with random tokens and steps."""
    rng = np.random.default_rng(setting.response_tokens)
    blocks = setting.response_tokens // BLOCK
    steps = [
        _ranks(rng, rng.choice(4, p=STEPS_PER_BLOCK[setting.tokens_per_step]) + 1)
        for _ in range(blocks)
    ]
    return Sample(
        trajectory_id="traj",
        prompt_ids=rng.integers(MASK, size=setting.prompt_tokens).astype(np.int32),
        response=response_of(
            rng.integers(MASK, size=setting.response_tokens).astype(np.int32),
            (np.concatenate(steps) + np.arange(blocks).repeat(BLOCK) * BLOCK).astype(np.int32),
            np.zeros(setting.response_tokens),
        ),
        advantage=1.0,
    )


def _ranks(rng: np.random.Generator, num_steps: int) -> NDArray[np.int64]:
    """Steps of a block's tokens, from 1, each of `num_steps` at least once."""
    extra = rng.integers(1, num_steps + 1, size=BLOCK - num_steps)
    return rng.permutation(np.concatenate([np.arange(1, num_steps + 1), extra]))


@dataclass(frozen=True)
class ReferenceRow:
    """`[noisy | clean]` of one step rank."""

    token_ids: Tensor
    index: RowIndex
    loss_at: Tensor
    targets: Tensor


def reference_rows(sample: Sample) -> Iterator[ReferenceRow]:
    """The published layout."""
    ids = torch.from_numpy(
        np.concatenate([sample.prompt_ids, sample.response.token_ids]).astype(np.int64)
    )
    # Steps count from 1 in every block here and none is skipped: a step's rank is the step within
    # its block.
    rank = torch.from_numpy(
        np.concatenate(
            [np.zeros(len(sample.prompt_ids)), (sample.response.unmask_step - 1) % BLOCK + 1]
        )
    )
    position = torch.arange(len(ids)).repeat(2)
    copy = torch.arange(2).flip(0).repeat_interleave(len(ids))
    index = RowIndex(position, position // BLOCK, copy, torch.zeros_like(position))
    for k in range(1, int(rank.max()) + 1):
        loss_at = torch.nonzero(rank == k).flatten()
        yield ReferenceRow(
            torch.cat([torch.where(rank >= k, MASK, ids), ids]), index, loss_at, ids[loss_at]
        )


def ours(loaded: LoadedModel, sample: Sample) -> tuple[int, float]:
    """Tokens and loss of a step."""
    (row,) = rl_rows([sample], block_size=BLOCK, mask_token_id=MASK, max_tokens=1)
    return len(row.token_ids), _forward_backward(score_row(loaded, row, 1.0)[0])


def reference(loaded: LoadedModel, sample: Sample) -> tuple[int, float]:
    """Row after row under a dense mask."""
    mask = visibility_mask(*[next(reference_rows(sample)).index] * 2)
    return _row_by_row(loaded, sample, DenseAttend(mask))


def reference_own_attention(loaded: LoadedModel, sample: Sample) -> tuple[int, float]:
    """Row after row under our attention."""
    return _row_by_row(loaded, sample, None)


def _row_by_row(
    loaded: LoadedModel, sample: Sample, attend: DenseAttend | None
) -> tuple[int, float]:
    tokens, loss = 0, 0.0
    for row in reference_rows(sample):
        if attend is None:
            hidden = hidden_states(loaded.model, row.token_ids, row.index)
        else:
            hidden = attended_states(
                loaded.model, row.token_ids[None], row.index.position[None], attend
            )[0]
        tokens += len(row.token_ids)
        loss += _forward_backward(_logprobs(loaded, hidden, row))
    return tokens, loss


def reference_batch(loaded: LoadedModel, sample: Sample) -> tuple[int, float]:
    """All rows at once, no backward."""
    rows = list(reference_rows(sample))
    attend = DenseAttend(visibility_mask(rows[0].index, rows[0].index))
    token_ids = torch.stack([row.token_ids for row in rows])
    hidden = attended_states(
        loaded.model, token_ids, rows[0].index.position.expand(len(rows), -1), attend
    )
    loss = -torch.cat(
        [_logprobs(loaded, states, row) for states, row in zip(hidden, rows, strict=True)]
    ).sum()
    return token_ids.numel(), float(loss.detach())


def _logprobs(loaded: LoadedModel, hidden: Tensor, row: ReferenceRow) -> Tensor:
    return token_logprobs(loaded, hidden[row.loss_at], 1.0).gather(1, row.targets[:, None])


def _forward_backward(logprobs: Tensor) -> float:
    loss = -logprobs.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def measure(variant: str, setting: Setting, threads: int) -> Cost:
    """One variant in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([score_row.__module__])  # imported once for all
    with context.Pool(1) as pool:
        return pool.apply(_measure, (variant, setting, threads))


def _measure(variant: str, setting: Setting, threads: int) -> Cost:
    torch.set_num_threads(threads)
    step = globals()[variant]
    loaded, sample = make_model(setting.width), make_sample(setting)
    step(
        loaded, make_sample(Setting(16, setting.tokens_per_step, 16, setting.width))
    )  # warm, gradients allocated
    before = _resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    seconds = math.inf
    for _ in range(setting.repetitions):
        began = time.perf_counter()
        tokens, loss = step(loaded, sample)
        seconds = min(seconds, time.perf_counter() - began)
    return Cost(tokens, round(seconds, 4), round(_resident_mib("VmHWM") - before, 1), loss)


def _resident_mib(field: str) -> float:
    """Resident memory now (VmRSS) or at its peak (VmHWM), from Linux."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    ]
    return int(line.split()[1]) / 1024


def compare(setting: Setting, threads: int) -> dict[str, object]:
    """All variants of one response, and the ratios of interest."""
    costs = {variant: measure(variant, setting, threads) for variant in VARIANTS}
    mine, theirs = costs["ours"], costs["reference"]
    losses = [cost.loss for cost in costs.values()]
    if max(losses) - min(losses) > 1e-4 * abs(mine.loss):
        raise RuntimeError(
            f"The variants compute different losses, {losses}: the comparison is void."
        )
    return {
        "benchmark": "rows",
        **asdict(setting),
        "threads": threads,
        **{variant: asdict(cost) for variant, cost in costs.items()},
        "times_fewer_tokens": round(theirs.tokens / mine.tokens, 2),
        "times_less_wall": round(theirs.seconds / mine.seconds, 2),
        "times_less_wall_than_with_own_attention": round(
            costs["reference_own_attention"].seconds / mine.seconds, 2
        ),
        "peak_over_one_reference_row": round(mine.peak_mib / theirs.peak_mib, 2),
        "peak_over_all_rows_in_a_batch": round(
            mine.peak_mib / costs["reference_batch"].peak_mib, 2
        ),
    }


def exponents(results: list[dict[str, object]]) -> dict[str, object]:
    """Growth of tokens, seconds and peak memory with R."""
    lengths = [float(str(result["response_tokens"])) for result in results]
    fits = {
        f"{variant}_{quantity}": round(
            _slope(
                lengths,
                [result[variant][quantity] for result in results],  # type: ignore[index]
            ),
            2,
        )
        for variant in ("ours", "reference", "reference_own_attention")
        for quantity in ("tokens", "seconds", "peak_mib")
    }
    return {"benchmark": "rows", "response_tokens": lengths, "growth_exponents": fits}


def _slope(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small responses and a narrow model: a test of the script",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.quick:
        settings = [Setting(length, 2, 32, 32) for length in (64, 128)] + [Setting(64, 1, 32, 32)]
    else:
        settings = [
            Setting(length, 2, repetitions=repeats)
            for length, repeats in ((256, 3), (1024, 2), (2048, 1))
        ]
        settings += [Setting(4096, 2), Setting(1024, 1), Setting(1024, 4)]
    results = []
    for setting in settings:
        results.append(compare(setting, options.threads))
        print(json.dumps(results[-1]), flush=True)
    print(
        json.dumps(exponents([result for result in results if result["tokens_per_step"] == 2])),
        flush=True,
    )


if __name__ == "__main__":
    main()
