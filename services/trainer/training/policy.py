"""The model under training: scores of rows, supervised updates, and the optimizer step that every
update ends with.

A mini-batch is packed into rows and summed over rows and ranks before one optimizer step. Every
denominator is taken over the whole mini-batch before the first row is computed, so that loss and
gradient depend neither on how it is packed nor on how many ranks share its rows. A loss or gradient
that is not finite stops the job before the weights move, and so does a model that has come to
predict far worse than chance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from services.common.errors import PlatformError
from services.common.job_metrics import JobMetric
from services.common.job_spec import OptimSpec, SftSpec, TrainerSpec
from services.common.model.forward import hidden_states, token_logprobs
from services.common.model.loading import LoadedModel
from services.common.trajectory import Float32s
from services.trainer.training.device_work import Work
from services.trainer.training.lora import disable_adapter
from services.trainer.training.ranks import ALONE, Ranks
from services.trainer.training.reference_policy import ReferencePolicy
from services.trainer.training.sft import NoisyExample, SftExample, add_noise, denoising_loss
from services.trainer.training.sharding import gather_full, shard
from services.trainer.training.trajectory_rows import PackedRow, Sample, rl_rows, sft_rows

LOGITS_PER_CHUNK: Final = 2**25
"""Logits held at once, 128 MiB in fp32: with a vocabulary of 152k, those of a packed row would fill
a device.
"""

_EXPLOSION_FACTOR: Final = 4.0
"""A model has exploded when the mean NLL of its targets exceeds that of a uniform guess this many
times: no initial model is near, and one whose weights blew up passes it within a step or two.
"""


@dataclass(kw_only=True)
class Policy:
    """The model that is trained, and how it computes."""

    loaded: LoadedModel
    trainer: TrainerSpec
    ranks: Ranks = ALONE
    reference: ReferencePolicy | None = None
    """What rl.kl_beta is the weight of the divergence from; needed when it is above 0."""
    work: Work = field(default_factory=Work)
    """Passes with gradient of this rank since PolicyModel.take_work last reset it."""

    def __post_init__(self) -> None:
        """With several ranks the weights are sharded, and a pass gathers them layer by layer."""
        self._scorer = _RowScorer(self.loaded)
        if self.ranks.size > 1:
            shard(self._scorer, self.loaded.model, self.ranks)

    def score(
        self,
        row: PackedRow,
        temperature: float,
        observe: Callable[[torch.Tensor], None] | None = None,
    ) -> tuple[torch.Tensor, float]:
        """score_row of a row from the host, its matrix products in the precision of the job."""
        device = self.loaded.model.device
        # Reference and probe passes run without gradient; they are not part of the training work.
        if torch.is_grad_enabled():
            self.work.add(self.loaded, row)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.trainer.precision == "bf16"):
            scored: tuple[torch.Tensor, float] = self._scorer(row.to(device), temperature, observe)
        return scored

    @property
    def layout(self) -> dict[str, int]:
        """Keywords of rl_rows and sft_rows."""
        return {
            "block_size": self.loaded.block_size,
            "mask_token_id": self.loaded.mask_token_id,
            "max_tokens": self.trainer.max_tokens_per_microbatch,
        }


def train_sft_batch(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[SftExample],
    generator: np.random.Generator,
    sft: SftSpec,
    optim: OptimSpec,
) -> dict[str, float]:
    """One supervised step on all examples of a batch, at the optimizer's current learning rate.

    `generator` is make_noise_generator(seed, step). Returns metrics by their public names. Raises
    PlatformError("nan_loss") before the weights move.
    """
    noisy = add_noise(examples, sft, policy.loaded.block_size, generator)
    optimizer.zero_grad(set_to_none=True)
    loss, nll = _sft_loss(policy, noisy, backward=True)
    masked = float(sum((example.state > 0).sum() for example in noisy))
    metrics = optimizer_step(policy, optimizer, loss, nll, optim.max_grad_norm)
    return {**metrics, JobMetric.DIFFUSION_MASKED_TOKENS_TRAINED: masked}


@torch.no_grad()
def evaluate_sft_loss(
    policy: Policy, examples: Sequence[SftExample], generator: np.random.Generator, sft: SftSpec
) -> float:
    """The supervised loss on held-out examples with one draw of noise, per answer token, in nats."""
    return _sft_loss(
        policy, add_noise(examples, sft, policy.loaded.block_size, generator), backward=False
    )[0]


@torch.no_grad()
def response_logprobs(policy: Policy, samples: Sequence[Sample]) -> list[Float32s]:
    """Log-probabilities [R] of given responses at temperature 1, as training computes them.
    Collective.
    """
    logprobs = [np.zeros(len(sample.response.token_ids), np.float32) for sample in samples]
    for row in rl_rows(samples, **policy.layout):
        scored = policy.score(row, temperature=1.0)[0].float().cpu().numpy()
        for sample, token, value in zip(
            row.sample.tolist(), row.token.tolist(), scored, strict=True
        ):
            logprobs[sample][token] = value
    return logprobs


def score_row(
    loaded: LoadedModel,
    row: PackedRow,
    temperature: float,
    *,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
    observe: Callable[[torch.Tensor], None] | None = None,
) -> tuple[torch.Tensor, float]:
    """Log-probs [N] of the row's targets, with gradient, and the entropy summed over its N loss
    positions, in nats.

    Logits are computed at loss positions only, in chunks; with more than one, each is computed
    again in the backward pass instead of being kept. `observe` is shown the hidden states [T, H],
    without gradient.
    """
    states = hidden_states(loaded.model, row.token_ids, row.index)
    if observe is not None:
        observe(states.detach())
    # Only masked positions that a step committed have a loss: logits of the clean copy, most of the
    # row, would cost memory for nothing.
    hidden = states[row.loss_at]
    size = max(1, logits_per_chunk // len(loaded.sampleable))
    if len(hidden) <= size:
        logprobs, entropy = _score(loaded, hidden, row.targets, temperature)
        return logprobs, float(entropy)
    # Without recomputation the backward pass would keep float32 logits [N, V] of the whole row.
    parts = [
        checkpoint(_score, loaded, chunk, targets, temperature, use_reentrant=False)
        for chunk, targets in zip(
            torch.split(hidden, size), torch.split(row.targets, size), strict=True
        )
    ]
    return torch.cat([logprobs for logprobs, _ in parts]), float(
        sum(entropy for _, entropy in parts)
    )


class AdapterOffReferencePolicy:
    """The base of a model with a LoRA adapter; see services.trainer.training.reference_policy.ReferencePolicy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def logprobs(self, row: PackedRow, temperature: float) -> torch.Tensor:
        """See ReferencePolicy."""
        with disable_adapter(self._policy.loaded.model):
            return self._policy.score(row, temperature)[0]


class _RowScorer(torch.nn.Module):
    """score_row as one module, from whose inputs to whose outputs a sharded model is gathered."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.model = loaded.model
        self._loaded = loaded

    def forward(
        self, row: PackedRow, temperature: float, observe: Callable[[torch.Tensor], None] | None
    ) -> tuple[torch.Tensor, float]:
        return score_row(self._loaded, row, temperature, observe=observe)


def _score(
    loaded: LoadedModel, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = token_logprobs(loaded, hidden, temperature)
    # entr(0) = 0, so ids that are never sampled (log-prob -inf) add nothing. Reported only: detached.
    entropy = torch.special.entr(logprobs.detach().exp()).sum()
    return logprobs.gather(1, targets[:, None]).squeeze(1), entropy


def _sft_loss(
    policy: Policy, noisy: Sequence[NoisyExample], *, backward: bool
) -> tuple[float, float]:
    """The batch's loss and the mean NLL of its targets over all ranks; `backward` adds this rank's
    gradient.
    """
    lengths = torch.tensor([len(example.token_ids) for example in noisy])
    first = lengths.cumsum(0) - lengths
    weight = torch.from_numpy(np.concatenate([example.weight for example in noisy]))
    own, own_nll, own_targets = 0.0, 0.0, 0
    for row, counts in policy.ranks.share_rows(sft_rows(noisy, **policy.layout)):
        logprobs, _ = policy.score(row, temperature=1.0)
        # A row that only keeps the ranks' collective passes in step has weight 0.
        weight_of_row = float(counts) * weight[first[row.sample] + row.token].to(logprobs.device)
        # The denominator is of the whole batch, not of the row: the sum over rows and ranks is the
        # loss of one large batch, however it was packed.
        loss = denoising_loss(logprobs, weight_of_row, int(lengths.sum()))
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
        own += float(loss.detach())
        own_nll -= counts * float(logprobs.detach().sum())
        own_targets += counts * len(logprobs)
    losses, nlls, targets = zip(*policy.ranks.all_gather((own, own_nll, own_targets)), strict=True)
    return sum(losses), sum(nlls) / max(1, sum(targets))


def optimizer_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    loss: float,
    nll: float,
    max_grad_norm: float,
) -> dict[str, float]:
    """Clip the accumulated gradient and step once; the norm returned is the one before clipping.

    `nll` is the mean of -log p of the update's targets, in nats. Raises
    PlatformError("nan_loss").
    """
    norm = float(
        gather_full(torch.nn.utils.clip_grad_norm_(policy.loaded.model.parameters(), max_grad_norm))
    )
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise PlatformError(
            "nan_loss",
            f"Cannot update the weights: the loss is {loss} and the gradient norm {norm}; both must be finite.",
            hint="The weights were not changed. Resume from the last checkpoint with a lower optim.lr.",
        )
    # A finite loss does not show it: the advantages of a group sum to zero, so the policy loss stays
    # near zero whatever the log-probs are.
    limit = _EXPLOSION_FACTOR * math.log(len(policy.loaded.sampleable))
    if nll > limit:
        raise PlatformError(
            "nan_loss",
            f"Cannot update the weights: the model has exploded. The mean NLL of its targets is {nll:.1f} nats, "
            f"that of a uniform guess {limit / _EXPLOSION_FACTOR:.1f}.",
            hint="The weights were not changed. Rewind to a checkpoint before the rise of train/loss, with a lower "
            "optim.lr.",
        )
    optimizer.step()
    return {
        JobMetric.TRAIN_LOSS: loss,
        JobMetric.TRAIN_GRAD_NORM: norm,
        JobMetric.TRAIN_LR: float(optimizer.param_groups[0]["lr"]),
    }
