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
from services.trainer.training.selection_drift import drift_observer
from services.trainer.training.trajectory_rows import Floats, PackedRow, Sample, rl_rows

Score = Callable[[PackedRow, float], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class RlRules:
    """What a reinforcement step goes by."""

    rl: RlSpec
    sampling: SamplingSpec
    optim: OptimSpec
    decoding: DecodingConfig | None = None
    """Under which the samples were selected; None leaves the selection drift out."""


@dataclass(frozen=True, kw_only=True)
class _Update:
    """What one optimizer step did."""

    metrics: dict[str, float]
    """Those of the optimizer step."""
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
    samples = _anchored(policy, samples, rules)
    updates = [
        _update(policy, optimizer, part, rules)
        for _ in range(rules.rl.num_iterations)
        for part in split_groups(samples, rules.rl.minibatches)
    ]
    return _metrics(updates, rules.rl)


def split_groups(samples: Sequence[Sample], parts: int) -> list[list[Sample]]:
    """Mini-batches of whole groups, in order, their numbers of groups as equal as they can be."""
    groups = list(dict.fromkeys(sample.group for sample in samples))
    part_of = {group: index * parts // len(groups) for index, group in enumerate(groups)}
    split: list[list[Sample]] = [[] for _ in range(parts)]
    for sample in samples:
        split[part_of[sample.group]].append(sample)
    return [part for part in split if part]


def _anchored(policy: Policy, samples: Sequence[Sample], rules: RlRules) -> list[Sample]:
    """The samples with what is scored once, before the weights move."""
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
    """Log-probs of every sample's terms; each rank scores its share of the rows."""
    ends = np.cumsum([sample.num_terms for sample in samples])
    first, found = np.concatenate([[0], ends[:-1]]), np.empty(ends[-1])
    own = []
    for row, counts in policy.ranks.share(rl_rows(samples, **policy.layout)):
        logprobs = score(row, temperature).double().cpu().numpy()
        if counts:
            own.append((first[row.sample.numpy()] + row.token.numpy(), logprobs))
    for part in policy.ranks.collect(own):
        for at, logprobs in part:
            found[at] = logprobs
    return np.split(found, ends[:-1])


def _update(
    policy: Policy, optimizer: torch.optim.Optimizer, samples: Sequence[Sample], rules: RlRules
) -> _Update:
    """One optimizer step on a mini-batch."""
    batch = _Minibatch(samples, rules, policy.loaded.model.device)
    optimizer.zero_grad(set_to_none=True)
    own_loss, own_statistics = 0.0, PolicyStatistics()
    for row, counts in policy.ranks.share(rl_rows(samples, **policy.layout)):
        if not counts:
            _keep_company(policy, row)
            continue
        row_loss, row_statistics = _descend(policy, row, batch)
        own_loss += row_loss
        own_statistics.add(row_statistics)
    loss, statistics = sum(policy.ranks.collect(own_loss)), PolicyStatistics()
    for part in policy.ranks.collect(own_statistics):
        statistics.add(part)
    surprise = statistics.surprise / statistics.tokens
    metrics = optimizer_step(policy, optimizer, loss, surprise, rules.optim.max_grad_norm)
    return _Update(
        metrics={**metrics, JobMetric.TRAIN_POLICY_LOSS: loss - statistics.kl_loss},
        statistics=statistics,
    )


def _metrics(updates: Sequence[_Update], rl: RlSpec) -> dict[str, float]:
    """Means over the updates of what each reports, over tokens of what is counted."""
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
    """The constants of a mini-batch, looked up per term of a row."""

    def __init__(self, samples: Sequence[Sample], rules: RlRules, device: torch.device) -> None:
        self.samples, self.rules = samples, rules
        lengths = torch.tensor([sample.num_terms for sample in samples])
        self._first = (lengths.cumsum(0) - lengths).to(device)
        recorded = [
            part
            for sample in samples
            for part in (sample.response.logprobs, sample.response.rejected.logprobs)
        ]
        self._behaviour = torch.from_numpy(np.concatenate(recorded)).to(device)
        self._proximal = _joined([sample.proximal for sample in samples], device)
        self._reference = _joined([sample.reference for sample in samples], device)
        self._advantage = torch.tensor(
            [sample.advantage for sample in samples], dtype=torch.float64, device=device
        )
        self._weight = token_weights(
            lengths, rules.rl.normaliser, rules.sampling.max_new_tokens
        ).to(device)

    def terms(self, row: PackedRow, logprobs: torch.Tensor) -> TokenTerms:
        """Of a row with the given log-probs under the current weights."""
        at = self._first[row.sample] + row.token
        proximal = None
        if self.rules.rl.ratio == "proximal":
            proximal = logprobs.detach() if self._proximal is None else self._proximal[at]
        return TokenTerms(
            behaviour=self._behaviour[at],
            advantage=self._advantage[row.sample],
            weight=self._weight[row.sample],
            proximal=proximal,
            reference=None if self._reference is None else self._reference[at],
        )


def _joined(parts: Sequence[Floats | None], device: torch.device) -> torch.Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.from_numpy(np.concatenate(given)).to(device) if given else None


def _keep_company(policy: Policy, row: PackedRow) -> None:
    """A pass that adds nothing to the gradient, while other ranks compute a row that counts."""
    (0.0 * policy.score(row, 1.0)[0]).sum().backward()  # type: ignore[no-untyped-call]


def _descend(policy: Policy, row: PackedRow, batch: _Minibatch) -> tuple[float, PolicyStatistics]:
    """Add one row's gradient; its loss and statistics."""
    rules, seen = batch.rules, PolicyStatistics()
    row = row.to(policy.loaded.model.device)
    observe = None
    if rules.decoding is not None and rules.rl.off_policy:
        observe = drift_observer(policy.loaded, row, rules.decoding, seen, LOGITS_PER_CHUNK)
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
