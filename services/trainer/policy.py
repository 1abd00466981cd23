"""Updates of the weights: one mini-batch, packed into rows, summed over rows, one optimizer step.

Every denominator is taken over the whole mini-batch before the first row is computed, so that loss and gradient do not
depend on how the mini-batch is packed. A loss or gradient that is not finite stops the job before the weights move.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from services.common.errors import PlatformError
from services.common.job_spec import OptimSpec, RlSpec, SamplingSpec, SftSpec, TrainerSpec
from services.common.model.forward import hidden_states, token_logprobs
from services.common.model.loading import LoadedModel
from services.trainer.objective import PolicyStatistics, TokenTerms, policy_loss, token_weights
from services.trainer.sft import NoisyExample, SftExample, add_noise, denoising_loss
from services.trainer.trajectory_rows import PackedRow, Sample, rl_rows, sft_rows

LOGITS_PER_CHUNK: Final = 2**25
"""Logits held at once, 128 MiB in fp32: with a vocabulary of 152k, those of a packed row would fill a device."""


def train_rl_minibatch(
    loaded: LoadedModel,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    rl: RlSpec,
    sampling: SamplingSpec,
    trainer: TrainerSpec,
    optim: OptimSpec,
) -> dict[str, float]:
    """One policy-gradient step on all samples of a mini-batch, at the optimizer's current learning rate.

    Returns metrics by their public names. Raises PlatformError("nan_loss") before the weights move, and
    ValueError without samples.
    """
    if not samples:
        raise ValueError("a mini-batch needs at least one sample")
    batch = _RlBatch(samples, rl, sampling, loaded.model.device)
    optimizer.zero_grad(set_to_none=True)
    loss, statistics = 0.0, PolicyStatistics()
    for row in rl_rows(samples, **_layout(loaded, trainer)):
        row_loss, row_statistics = _rl_row(loaded, row.to(loaded.model.device), batch)
        loss += row_loss
        statistics.add(row_statistics)
    step_metrics = _step(loaded, optimizer, loss, optim.max_grad_norm)
    return {**step_metrics, "train/policy_loss": loss, **statistics.metrics()}


def train_sft_batch(
    loaded: LoadedModel,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[SftExample],
    generator: np.random.Generator,
    sft: SftSpec,
    trainer: TrainerSpec,
    optim: OptimSpec,
) -> dict[str, float]:
    """One supervised step on all examples of a batch, at the optimizer's current learning rate.

    `generator` is noise_generator(seed, step). Returns metrics by their public names. Raises PlatformError("nan_loss")
    before the weights move.
    """
    noisy = add_noise(examples, sft, loaded.block_size, generator)
    optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    for row_loss in _sft_row_losses(loaded, noisy, trainer):
        row_loss.backward()  # type: ignore[no-untyped-call]
        loss += float(row_loss.detach())
    masked = float(sum(example.masked.sum() for example in noisy))
    return {**_step(loaded, optimizer, loss, optim.max_grad_norm), "diffusion/masked_tokens_trained": masked}


@torch.no_grad()
def evaluate_sft_loss(
    loaded: LoadedModel,
    examples: Sequence[SftExample],
    generator: np.random.Generator,
    sft: SftSpec,
    trainer: TrainerSpec,
) -> float:
    """The supervised loss on held-out examples with one draw of noise, per answer token, in nats."""
    noisy = add_noise(examples, sft, loaded.block_size, generator)
    return sum(float(loss) for loss in _sft_row_losses(loaded, noisy, trainer))


def score_row(
    loaded: LoadedModel, row: PackedRow, temperature: float, *, logits_per_chunk: int = LOGITS_PER_CHUNK
) -> tuple[torch.Tensor, float]:
    """Log-probs [N] of the row's targets, with gradient, and the entropy summed over its N loss positions, in nats.

    Logits are computed at loss positions only, in chunks; with more than one, each is computed again in the backward
    pass instead of being kept.
    """
    hidden = hidden_states(loaded.model, row.token_ids, row.index)[row.loss_at]
    size = max(1, logits_per_chunk // len(loaded.sampleable))
    if len(hidden) <= size:
        logprobs, entropy = _score(loaded, hidden, row.targets, temperature)
        return logprobs, float(entropy)
    parts = [
        checkpoint(_score, loaded, chunk, targets, temperature, use_reentrant=False)
        for chunk, targets in zip(torch.split(hidden, size), torch.split(row.targets, size), strict=True)
    ]
    return torch.cat([logprobs for logprobs, _ in parts]), float(sum(entropy for _, entropy in parts))


def _score(
    loaded: LoadedModel, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = token_logprobs(loaded, hidden, temperature)
    entropy = torch.special.entr(logprobs.detach().exp()).sum()
    return logprobs.gather(1, targets[:, None]).squeeze(1), entropy


class _RlBatch:
    """The constants of a mini-batch, looked up per token of a row."""

    def __init__(self, samples: Sequence[Sample], rl: RlSpec, sampling: SamplingSpec, device: torch.device) -> None:
        self.samples = samples
        self.rl = rl
        self.temperature = sampling.temperature
        lengths = torch.tensor([len(sample.token_ids) for sample in samples])
        weights = token_weights(lengths, rl.normaliser, sampling.max_new_tokens)
        self._first = (lengths.cumsum(0) - lengths).to(device)
        self._behaviour = torch.from_numpy(np.concatenate([sample.logprobs for sample in samples])).to(device)
        self._advantage = torch.tensor([sample.advantage for sample in samples], dtype=torch.float64, device=device)
        self._weight = weights.to(device)

    def terms(self, row: PackedRow) -> TokenTerms:
        return TokenTerms(
            behaviour=self._behaviour[self._first[row.sample] + row.token],
            advantage=self._advantage[row.sample],
            weight=self._weight[row.sample],
        )


def _rl_row(loaded: LoadedModel, row: PackedRow, batch: _RlBatch) -> tuple[float, PolicyStatistics]:
    """Add one row's gradient; its loss and statistics."""
    logprobs, entropy = score_row(loaded, row, batch.temperature)
    terms = batch.terms(row)
    _require_finite(logprobs.detach(), row, batch.samples, "under the current weights")
    _require_finite(terms.behaviour, row, batch.samples, "as recorded by the rollout engine")
    loss, statistics = policy_loss(logprobs, terms, clip_low=batch.rl.clip_low, clip_high=batch.rl.clip_high)
    loss.backward()  # type: ignore[no-untyped-call]
    statistics.entropy = entropy
    return float(loss.detach()), statistics


def _require_finite(logprobs: torch.Tensor, row: PackedRow, samples: Sequence[Sample], where: str) -> None:
    broken = (~logprobs.isfinite()).nonzero()
    if len(broken) == 0:
        return
    at = int(broken[0])
    raise PlatformError(
        "nan_loss",
        f"Cannot train on trajectory {samples[int(row.sample[at])].trajectory_id}: its token {int(row.token[at])} (id"
        f" {int(row.targets[at])}) has log-prob {float(logprobs[at])} {where}; a sampled token has a finite one.",
        hint="The weights were not changed. Resume from the last checkpoint with a lower optim.lr.",
    )


def _sft_row_losses(loaded: LoadedModel, noisy: Sequence[NoisyExample], trainer: TrainerSpec) -> Iterator[torch.Tensor]:
    """The terms of the batch's loss, one per row."""
    lengths = torch.tensor([len(example.token_ids) for example in noisy])
    first = lengths.cumsum(0) - lengths
    weight = torch.from_numpy(np.concatenate([example.weight for example in noisy]))
    for row in sft_rows(noisy, **_layout(loaded, trainer)):
        logprobs, _ = score_row(loaded, row.to(loaded.model.device), temperature=1.0)
        weight_of_row = weight[first[row.sample] + row.token].to(logprobs.device)
        yield denoising_loss(logprobs, weight_of_row, int(lengths.sum()))


def _layout(loaded: LoadedModel, trainer: TrainerSpec) -> dict[str, int]:
    return {
        "block_size": loaded.block_size,
        "mask_token_id": loaded.mask_token_id,
        "max_tokens": trainer.max_tokens_per_microbatch,
    }


def _step(loaded: LoadedModel, optimizer: torch.optim.Optimizer, loss: float, max_grad_norm: float) -> dict[str, float]:
    """Clip the accumulated gradient and step once; the norm returned is the one before clipping."""
    norm = float(torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise PlatformError(
            "nan_loss",
            f"Cannot update the weights: the loss is {loss} and the gradient norm {norm}; both must be finite.",
            hint="The weights were not changed. Resume from the last checkpoint with a lower optim.lr.",
        )
    optimizer.step()
    return {"train/loss": loss, "train/grad_norm": norm, "train/lr": float(optimizer.param_groups[0]["lr"])}
