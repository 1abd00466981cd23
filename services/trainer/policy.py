"""Updates of the weights: one mini-batch, packed into rows, summed over rows and ranks, one optimizer step.

Every denominator is taken over the whole mini-batch before the first row is computed, so that loss and gradient depend
neither on how the mini-batch is packed nor on how many ranks share its rows. A loss or gradient that is not finite
stops the job before the weights move.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from services.common.errors import PlatformError
from services.common.job_spec import OptimSpec, RlSpec, SamplingSpec, SftSpec, TrainerSpec
from services.common.model.forward import hidden_states, token_logprobs
from services.common.model.loading import LoadedModel
from services.trainer.objective import PolicyStatistics, TokenTerms, policy_loss, token_weights
from services.trainer.ranks import ALONE, Ranks
from services.trainer.sft import NoisyExample, SftExample, add_noise, denoising_loss
from services.trainer.trajectory_rows import PackedRow, Sample, rl_rows, sft_rows

LOGITS_PER_CHUNK: Final = 2**25
"""Logits held at once, 128 MiB in fp32: with a vocabulary of 152k, those of a packed row would fill a device."""


@dataclass(kw_only=True)
class Policy:
    """The model that is trained, and how it computes."""

    loaded: LoadedModel
    trainer: TrainerSpec
    ranks: Ranks = ALONE

    def score(self, row: PackedRow, temperature: float) -> tuple[torch.Tensor, float]:
        """score_row of a row from the host."""
        return score_row(self.loaded, row.to(self.loaded.model.device), temperature)

    @property
    def layout(self) -> dict[str, int]:
        """Keywords of rl_rows and sft_rows."""
        return {
            "block_size": self.loaded.block_size,
            "mask_token_id": self.loaded.mask_token_id,
            "max_tokens": self.trainer.max_tokens_per_microbatch,
        }


def train_rl_minibatch(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    rl: RlSpec,
    sampling: SamplingSpec,
    optim: OptimSpec,
) -> dict[str, float]:
    """One policy-gradient step on all samples of a mini-batch, at the optimizer's current learning rate.

    Returns metrics by their public names. Raises PlatformError("nan_loss") before the weights move, and
    ValueError without samples.
    """
    if not samples:
        raise ValueError("a mini-batch needs at least one sample")
    batch = _RlBatch(samples, rl, sampling, policy.loaded.model.device)
    optimizer.zero_grad(set_to_none=True)
    own_loss, own_statistics = 0.0, PolicyStatistics()
    for row, counts in policy.ranks.share(rl_rows(samples, **policy.layout)):
        if not counts:
            _keep_company(policy, row)
            continue
        row_loss, row_statistics = _rl_row(policy, row, batch)
        own_loss += row_loss
        own_statistics.add(row_statistics)
    loss, statistics = sum(policy.ranks.collect(own_loss)), PolicyStatistics()
    for part in policy.ranks.collect(own_statistics):
        statistics.add(part)
    step_metrics = _step(policy, optimizer, loss, optim.max_grad_norm)
    return {**step_metrics, "train/policy_loss": loss, **statistics.metrics()}


def train_sft_batch(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[SftExample],
    generator: np.random.Generator,
    sft: SftSpec,
    optim: OptimSpec,
) -> dict[str, float]:
    """One supervised step on all examples of a batch, at the optimizer's current learning rate.

    `generator` is noise_generator(seed, step). Returns metrics by their public names. Raises PlatformError("nan_loss")
    before the weights move.
    """
    noisy = add_noise(examples, sft, policy.loaded.block_size, generator)
    optimizer.zero_grad(set_to_none=True)
    loss = _sft_loss(policy, noisy, backward=True)
    masked = float(sum(example.masked.sum() for example in noisy))
    return {**_step(policy, optimizer, loss, optim.max_grad_norm), "diffusion/masked_tokens_trained": masked}


@torch.no_grad()
def evaluate_sft_loss(
    policy: Policy, examples: Sequence[SftExample], generator: np.random.Generator, sft: SftSpec
) -> float:
    """The supervised loss on held-out examples with one draw of noise, per answer token, in nats."""
    return _sft_loss(policy, add_noise(examples, sft, policy.loaded.block_size, generator), backward=False)


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


def _keep_company(policy: Policy, row: PackedRow) -> None:
    """A pass that adds nothing to the gradient, while other ranks compute a row that counts."""
    (0.0 * policy.score(row, 1.0)[0]).sum().backward()  # type: ignore[no-untyped-call]


def _rl_row(policy: Policy, row: PackedRow, batch: _RlBatch) -> tuple[float, PolicyStatistics]:
    """Add one row's gradient; its loss and statistics."""
    logprobs, entropy = policy.score(row, batch.temperature)
    row = row.to(logprobs.device)
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


def _sft_loss(policy: Policy, noisy: Sequence[NoisyExample], *, backward: bool) -> float:
    """The batch's loss over all ranks; `backward` adds this rank's part of the gradient."""
    lengths = torch.tensor([len(example.token_ids) for example in noisy])
    first = lengths.cumsum(0) - lengths
    weight = torch.from_numpy(np.concatenate([example.weight for example in noisy]))
    own = 0.0
    for row, counts in policy.ranks.share(sft_rows(noisy, **policy.layout)):
        logprobs, _ = policy.score(row, temperature=1.0)
        weight_of_row = float(counts) * weight[first[row.sample] + row.token].to(logprobs.device)
        loss = denoising_loss(logprobs, weight_of_row, int(lengths.sum()))
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
        own += float(loss.detach())
    return sum(policy.ranks.collect(own))


def _step(policy: Policy, optimizer: torch.optim.Optimizer, loss: float, max_grad_norm: float) -> dict[str, float]:
    """Clip the accumulated gradient and step once; the norm returned is the one before clipping."""
    norm = float(torch.nn.utils.clip_grad_norm_(policy.loaded.model.parameters(), max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise PlatformError(
            "nan_loss",
            f"Cannot update the weights: the loss is {loss} and the gradient norm {norm}; both must be finite.",
            hint="The weights were not changed. Resume from the last checkpoint with a lower optim.lr.",
        )
    optimizer.step()
    return {"train/loss": loss, "train/grad_norm": norm, "train/lr": float(optimizer.param_groups[0]["lr"])}
