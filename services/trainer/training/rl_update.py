"""A reinforcement step's updates: one per mini-batch and iteration, each one optimizer step.

Every denominator is taken over the whole mini-batch before its first row is computed. A loss or
gradient that is not finite stops the job before the weights move.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from services.common.diffusion.config import DecodingConfig
from services.common.errors import PlatformError
from services.common.job_metrics import JobMetric
from services.common.job_spec import OptimSpec, RlSpec, SamplingSpec
from services.trainer.training.objective import (
    PolicyStatistics,
    TokenTerms,
    policy_loss,
    token_weights,
)
from services.trainer.training.policy import LOGITS_PER_CHUNK, Policy, optimizer_step
from services.trainer.training.selection_drift import make_drift_observer
from services.trainer.training.trajectory_rows import Floats, PackedRow, Sample, rl_rows

Score = Callable[[PackedRow, float], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class RlRules:
    """Parts of the job spec and the decoding that an update depends on."""

    rl: RlSpec
    sampling: SamplingSpec
    optim: OptimSpec
    decoding: DecodingConfig | None = None
    """Rule that selected the positions of the samples; None leaves the selection drift out."""


@dataclass(frozen=True, kw_only=True)
class _Update:
    """Results of one optimizer step."""

    metrics: dict[str, float]
    """Loss, gradient norm and learning rate."""
    statistics: PolicyStatistics


def train_rl_batch(
    policy: Policy, optimizer: torch.optim.Optimizer, samples: Sequence[Sample], rules: RlRules
) -> dict[str, float]:
    """Train on a step's samples, at the optimizer's current learning rate: num_iterations x
    minibatches updates.

    Returns metrics by their public names, those of the updates averaged. Raises
    PlatformError("nan_loss") before the weights move, and ValueError without samples.
    """
    if not samples:
        raise ValueError("a mini-batch needs at least one sample")
    samples = _add_fixed_logprobs(policy, samples, rules)
    updates = [
        _update(policy, optimizer, part, rules)
        for _ in range(rules.rl.num_iterations)
        for part in split_groups(samples, rules.rl.minibatches)
    ]
    return _metrics(updates, rules.rl)


def split_groups(samples: Sequence[Sample], parts: int) -> list[list[Sample]]:
    """Split samples into mini-batches of whole groups, in order and of nearly equal numbers of
    groups.
    """
    # Groups stay whole: advantages are relative to the group's own mean, so that a part of a group
    # could push all of its responses the same way.
    groups = list(dict.fromkeys(sample.group for sample in samples))
    part_of = {group: index * parts // len(groups) for index, group in enumerate(groups)}
    split: list[list[Sample]] = [[] for _ in range(parts)]
    for sample in samples:
        split[part_of[sample.group]].append(sample)
    return [part for part in split if part]


def _add_fixed_logprobs(policy: Policy, samples: Sequence[Sample], rules: RlRules) -> list[Sample]:
    """The samples with the log-probs that stay fixed while the weights move: those under the weights
    before the step, and those under the reference policy.
    """
    rl, temperature = rules.rl, rules.sampling.temperature
    # With a single update the weights before the step are the current ones: the row's own pass
    # gives their log-probs.
    if rl.ratio == "proximal" and rl.num_iterations * rl.minibatches > 1:
        found = _logprobs_of(policy, lambda row, t: policy.score(row, t)[0], samples, temperature)
        samples = [
            replace(sample, proximal=logprobs)
            for sample, logprobs in zip(samples, found, strict=True)
        ]
    if rl.kl_beta > 0:
        if policy.reference is None:
            raise ValueError("kl_beta is above 0, but there is no reference policy")
        found = _logprobs_of(policy, policy.reference.logprobs, samples, temperature)
        samples = [
            replace(sample, reference=logprobs)
            for sample, logprobs in zip(samples, found, strict=True)
        ]
    return list(samples)


@torch.no_grad()
def _logprobs_of(
    policy: Policy, score: Score, samples: Sequence[Sample], temperature: float
) -> list[Floats]:
    """Score every sample's terms; each rank scores its share of the rows."""
    ends = np.cumsum([sample.num_terms for sample in samples])
    first, found = np.concatenate([[0], ends[:-1]]), np.empty(ends[-1])
    own = []
    for row, counts in policy.ranks.share_rows(rl_rows(samples, **policy.layout)):
        logprobs = score(row, temperature).double().cpu().numpy()
        if counts:  # else another rank collects this row; the pass only kept the ranks in step
            own.append((first[row.sample.numpy()] + row.token.numpy(), logprobs))
    for part in policy.ranks.all_gather(own):
        for at, logprobs in part:
            found[at] = logprobs
    return np.split(found, ends[:-1])


def _update(
    policy: Policy, optimizer: torch.optim.Optimizer, samples: Sequence[Sample], rules: RlRules
) -> _Update:
    """One optimizer step on a mini-batch."""
    # Weights of tokens are fixed before the first row: gradient accumulation then equals one large
    # batch exactly.
    batch = _Minibatch(samples, rules, policy.loaded.model.device)
    optimizer.zero_grad(set_to_none=True)
    own_loss, own_statistics = 0.0, PolicyStatistics()
    for row, counts in policy.ranks.share_rows(rl_rows(samples, **policy.layout)):
        if not counts:
            _dummy_forward_backward(policy, row)
            continue
        row_loss, row_statistics = _forward_backward(policy, row, batch)
        own_loss += row_loss
        own_statistics.add(row_statistics)
    loss, statistics = sum(policy.ranks.all_gather(own_loss)), PolicyStatistics()
    for part in policy.ranks.all_gather(own_statistics):
        statistics.add(part)  # FSDP sums gradients over ranks; numbers are summed here
    nll = statistics.nll / statistics.tokens
    metrics = optimizer_step(policy, optimizer, loss, nll, rules.optim.max_grad_norm)
    return _Update(
        metrics={**metrics, JobMetric.TRAIN_POLICY_LOSS: loss - statistics.kl_loss},
        statistics=statistics,
    )


def _metrics(updates: Sequence[_Update], rl: RlSpec) -> dict[str, float]:
    """Combine the updates' metrics: numbers per update are averaged over updates, numbers per
    token over tokens.
    """
    total = PolicyStatistics()
    for update in updates:
        total.add(update.statistics)
    means = {
        name: sum(u.metrics[name] for u in updates) / len(updates) for name in updates[0].metrics
    }
    optional: dict[str, float] = {
        **({JobMetric.TRAIN_KL: total.kl / total.tokens} if rl.kl_beta > 0 else {}),
        **(
            {JobMetric.TRAIN_IS_CAPPED_FRACTION: total.capped / total.tokens}
            if rl.ratio == "proximal"
            else {}
        ),
        **({JobMetric.TRAIN_SELECTION_DRIFT: total.drifted / total.steps} if total.steps else {}),
    }
    return {**means, **total.metrics(), **optional, JobMetric.TRAIN_UPDATES: float(len(updates))}


class _Minibatch:
    """The constants of a mini-batch, looked up per term of a row.

    Legend: S samples; T terms of all samples, one sample after the other; N terms of a row.
    """

    def __init__(self, samples: Sequence[Sample], rules: RlRules, device: torch.device) -> None:
        self.samples, self.rules = samples, rules
        lengths = torch.tensor([sample.num_terms for sample in samples])
        self._first = (lengths.cumsum(0) - lengths).to(device)  # [S] place of a sample's first term
        recorded = [
            part
            for sample in samples
            for part in (sample.response.logprobs, sample.response.rejected.logprobs)
        ]
        self._behaviour = torch.from_numpy(np.concatenate(recorded)).to(device)
        self._proximal = _concatenate([sample.proximal for sample in samples], device)
        self._reference = _concatenate([sample.reference for sample in samples], device)
        self._advantage = torch.tensor(
            [sample.advantage for sample in samples], dtype=torch.float64, device=device
        )
        self._weight = token_weights(
            lengths, rules.rl.normaliser, rules.sampling.max_new_tokens
        ).to(device)

    def terms(self, row: PackedRow, logprobs: torch.Tensor) -> TokenTerms:
        """Constants of a row's N terms; `logprobs` [N] are those under the current weights."""
        at = self._first[row.sample] + row.token
        proximal = None
        if self.rules.rl.ratio == "proximal":
            # A single update: the weights before the step are the current ones, so the ratio is 1
            # and its gradient that of log π.
            proximal = logprobs.detach() if self._proximal is None else self._proximal[at]
        return TokenTerms(
            behaviour=self._behaviour[at],
            advantage=self._advantage[row.sample],
            weight=self._weight[row.sample],
            proximal=proximal,
            reference=None if self._reference is None else self._reference[at],
        )


def _concatenate(parts: Sequence[Floats | None], device: torch.device) -> torch.Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.from_numpy(np.concatenate(given)).to(device) if given else None


def _dummy_forward_backward(policy: Policy, row: PackedRow) -> None:
    """A pass that adds nothing to the gradient, while other ranks compute a row that counts.

    Multiplied by zero and not skipped: a sharded model gathers weights and reduces gradients in
    collective calls that wait for every rank.
    """
    (0.0 * policy.score(row, 1.0)[0]).sum().backward()  # type: ignore[no-untyped-call]


def _forward_backward(
    policy: Policy, row: PackedRow, batch: _Minibatch
) -> tuple[float, PolicyStatistics]:
    """Forward and backward pass of one row; returns its part of the loss, and its statistics."""
    rules, seen = batch.rules, PolicyStatistics()
    row = row.to(policy.loaded.model.device)
    observe = None
    # On-policy the weights are those that selected, so nothing can have drifted.
    if rules.decoding is not None and rules.rl.off_policy:
        observe = make_drift_observer(policy.loaded, row, rules.decoding, seen, LOGITS_PER_CHUNK)
    logprobs, entropy = policy.score(row, rules.sampling.temperature, observe)
    terms = batch.terms(row, logprobs)
    _require_finite(logprobs.detach(), row, batch.samples, "under the current weights")
    _require_finite(terms.behaviour, row, batch.samples, "as recorded by the rollout engine")
    loss, statistics = policy_loss(logprobs, terms, rules.rl)
    loss.backward()  # type: ignore[no-untyped-call]
    statistics.entropy = entropy
    statistics.add(seen)
    return float(loss.detach()), statistics


def _require_finite(
    logprobs: torch.Tensor, row: PackedRow, samples: Sequence[Sample], where: str
) -> None:
    # Before the loss, where a NaN could no longer be traced to a token; -inf would become a ratio of
    # 0 and pass unseen.
    broken = (~logprobs.isfinite()).nonzero()
    if len(broken) == 0:
        return
    at = int(broken[0])
    sample, number = samples[int(row.sample[at])], int(row.token[at])
    what = (
        f"token {number}"
        if number < len(sample.response.token_ids)
        else f"candidate {number - len(sample.response.token_ids)}"
    )
    raise PlatformError(
        "nan_loss",
        f"Cannot train on trajectory {sample.trajectory_id}: its {what} (id {int(row.targets[at])}) has log-prob"
        f" {float(logprobs[at])} {where}; a sampled token has a finite one.",
        hint="The weights were not changed. Resume from the last checkpoint with a lower optim.lr.",
    )
