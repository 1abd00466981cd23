"""Every response that a tiny model can give, with its probability as a function of the weights.

The model decodes prompts over a vocabulary of three tokens in blocks of two; token 0 ends the
response at the end of its block. So the expected reward and its gradient are exact, and so is the
expectation of the learner's update over all groups of two: either every pair goes through
train_rl_batch as a mini-batch of its own, or, because on-policy the update is linear in the
advantages, the gradients of single trajectories are combined with the learner's own advantages and
weights.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.common.advantages import group_advantages
from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.diffusion.rules import commit_mask, confidences
from services.common.job_spec import OptimSpec, RlSpec, SamplingSpec, TrainerSpec
from services.common.model.loading import LoadedModel
from services.common.trajectory import Candidates, Outcome
from services.trainer.learner.graded_group import drop_reason
from services.trainer.training.objective import token_weights
from services.trainer.training.policy import Policy
from services.trainer.training.rl_update import RlRules, train_rl_batch
from services.trainer.training.trajectory_rows import Sample
from tests.support.numerics import gradient, response_of, state_logprobs, tiny_loaded

BLOCK, MASK, STOP, MAX_TOKENS = 2, 3, 0, 4
THRESHOLD, ENTROPY_BOUND = 0.6, 1.85

Drawn = tuple[tuple[int, int], ...]
"""(offset in the block, token) pairs."""


def toy_model(seed: int) -> LoadedModel:
    """In fp64, with uneven probabilities."""
    return tiny_loaded(vocab_size=MASK + 1, block_size=BLOCK, seed=seed, hidden_size=8, layers=1)


def toy_decoding(strategy: UnmaskingStrategy, selection: Selection) -> DecodingConfig:
    """Rules that commit one token or both, depending on the state."""
    return DecodingConfig(
        block_size=BLOCK, denoising_steps=BLOCK, unmasking_strategy=strategy, confidence_threshold=THRESHOLD,
        entropy_bound=ENTROPY_BOUND, selection=selection, mask_token_id=MASK, temperature=1.0, top_p=1.0, top_k=0,
        max_new_tokens=MAX_TOKENS, stop_token_ids=(STOP,),
    )  # fmt: skip


MAX = toy_decoding(UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC, Selection.MAX)
SAMPLED = toy_decoding(UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC, Selection.SAMPLED)
SEQUENTIAL = toy_decoding(UnmaskingStrategy.SEQUENTIAL, Selection.MAX)
ENTROPY_BOUNDED = toy_decoding(UnmaskingStrategy.ENTROPY_BOUNDED, Selection.MAX)


@dataclass
class Enumerated:
    """One trajectory."""

    token_ids: list[int]
    steps: list[int]
    logprobs: list[float]
    rejected: list[tuple[int, int, int, float]]
    """(response token, step, token id, log-prob)"""
    probability: Tensor
    """0-dim, with gradient."""

    @property
    def reward(self) -> float:
        """An arbitrary number that depends on all visible tokens, and on nothing else."""
        end = self.token_ids.index(STOP) + 1 if STOP in self.token_ids else len(self.token_ids)
        return float(np.random.default_rng(self.token_ids[:end]).uniform())

    def sample(self, prompt: Sequence[int], advantage: float) -> Sample:
        """As the learner gets it."""
        position, step, token_ids, logprobs = (
            zip(*self.rejected, strict=True) if self.rejected else ((),) * 4
        )
        return Sample(
            trajectory_id="traj_" + "".join(map(str, self.token_ids)),
            prompt_ids=np.array(prompt, dtype=np.int32),
            response=response_of(
                np.array(self.token_ids, dtype=np.int32),
                np.array(self.steps, dtype=np.int32),
                np.array(self.logprobs),
                Candidates(
                    position=np.array(position, dtype=np.int32),
                    step=np.array(step, dtype=np.int32),
                    token_ids=np.array(token_ids, dtype=np.int32),
                    logprobs=np.array(logprobs),
                ),
            ),
            advantage=advantage,
        )


@dataclass(frozen=True)
class Enumeration:
    """All trajectories of a prompt, under a decoding, as an estimator sees them."""

    loaded: LoadedModel
    prompt: Sequence[int]
    decoding: DecodingConfig
    estimator: str = "accepted"

    def trajectories(self) -> list[Enumerated]:
        """Their probabilities sum to 1."""
        start = Enumerated([], [], [], [], torch.ones((), dtype=torch.float64))
        return list(self._open_block(start))

    def _open_block(self, so_far: Enumerated) -> Iterator[Enumerated]:
        """Every way on from a finished block; the first one also holds the prompt's tail."""
        if STOP in so_far.token_ids or len(so_far.token_ids) > MAX_TOKENS - BLOCK:
            yield so_far
            return
        fresh = BLOCK - (len(self.prompt) + len(so_far.token_ids)) % BLOCK
        opened = Enumerated(
            so_far.token_ids + [MASK] * fresh,
            so_far.steps + [0] * fresh,
            so_far.logprobs + [0.0] * fresh,
            so_far.rejected,
            so_far.probability,
        )
        yield from self._denoise(opened, max(so_far.steps, default=0) + 1)

    def _denoise(self, state: Enumerated, step: int) -> Iterator[Enumerated]:
        if MASK not in state.token_ids:
            yield from self._open_block(state)
            return
        logprobs = state_logprobs(self.loaded, [*self.prompt, *state.token_ids])
        first = len(state.token_ids) - BLOCK
        masked = [
            offset
            for offset in range(BLOCK)
            if first + offset >= 0 and state.token_ids[first + offset] == MASK
        ]
        for (commit, rejected), probability in self._ways(logprobs, masked).items():
            following = Enumerated(
                list(state.token_ids), list(state.steps), list(state.logprobs), list(state.rejected),
                state.probability * probability,
            )  # fmt: skip
            for offset, token in commit:
                following.token_ids[first + offset] = token
                following.steps[first + offset] = step
                following.logprobs[first + offset] = float(logprobs[offset, token].detach())
            following.rejected += [
                (first + offset, step, token, float(logprobs[offset, token].detach()))
                for offset, token in rejected
            ]
            yield from self._denoise(following, step + 1)

    def _ways(self, logprobs: Tensor, masked: list[int]) -> dict[tuple[Drawn, Drawn], Tensor]:
        """What every draw at the masked offsets of a block [B, V] commits and rejects, to its
        probability.

        The estimator of accepted tokens is blind to the rejected ones: draws that commit the same
        tokens are one.
        """
        where = torch.zeros(1, BLOCK, dtype=torch.bool)
        where[0, masked] = True
        known = logprobs.detach()[None]
        ways: dict[tuple[Drawn, Drawn], Tensor] = {}
        for tokens in itertools.product(range(MASK), repeat=len(masked)):
            candidates = torch.zeros(1, BLOCK, dtype=torch.long)
            candidates[0, masked] = torch.tensor(tokens)
            kept = commit_mask(
                self.decoding, where, confidences(self.decoding, known, candidates), known
            )[0]
            drawn = list(zip(masked, tokens, strict=True))
            commit = tuple((offset, token) for offset, token in drawn if kept[offset])
            rejected = tuple((offset, token) for offset, token in drawn if not kept[offset])
            key = (commit, rejected if self.estimator == "all_candidates" else ())
            ways[key] = (
                ways.get(key, torch.zeros((), dtype=torch.float64))
                + logprobs[masked, list(tokens)].sum().exp()
            )
        return ways


def true_gradient(loaded: LoadedModel, trajectories: Sequence[Enumerated]) -> Tensor:
    """Of the expected reward."""
    return gradient(loaded, torch.stack([t.reward * t.probability for t in trajectories]).sum())


def learner_update(loaded: LoadedModel, samples: Sequence[Sample], rl: RlSpec) -> Tensor:
    """Direction in which one step of the learner moves the weights, times MAX_TOKENS."""
    rules = RlRules(
        rl=rl, sampling=SamplingSpec(max_new_tokens=MAX_TOKENS), optim=OptimSpec(max_grad_norm=1e9)
    )
    optimizer = torch.optim.SGD(loaded.model.parameters(), lr=0.0)
    train_rl_batch(Policy(loaded=loaded, trainer=TrainerSpec()), optimizer, samples, rules)
    gradients = [parameter.grad for parameter in loaded.model.parameters()]
    return -MAX_TOKENS * torch.cat([grad.flatten() for grad in gradients if grad is not None])


def expected_update(
    enumeration: Enumeration, trajectories: Sequence[Enumerated], rl: RlSpec
) -> Tensor:
    """Expectation of the learner's update over groups of two, each a mini-batch of its own.

    Where the normaliser is constant, all groups go through the learner as one batch, each with its
    advantages times its probability: the loss is linear in them.
    """
    loaded, total, everything = enumeration.loaded, torch.zeros(()), []
    for one, other in itertools.combinations_with_replacement(trajectories, 2):
        advantages = group_advantages([one.reward, other.reward], rl.advantage)
        chance = (1 if one is other else 2) * float((one.probability * other.probability).detach())
        pair = [
            t.sample(enumeration.prompt, advantage * chance)
            for t, advantage in zip((one, other), advantages, strict=True)
            if advantage is not None
        ]
        if rl.normaliser == "constant":
            everything += pair
        else:
            total = total + learner_update(loaded, pair, rl)
    return len(everything) / 2 * learner_update(loaded, everything, rl) if everything else total


@dataclass(frozen=True)
class Bias:
    """An expected update compared with the true gradient."""

    cosine: float
    length: float
    """Of the update over that of the gradient."""
    relative_error: float

    @staticmethod
    def of(update: Tensor, truth: Tensor) -> "Bias":
        """Compare."""
        return Bias(
            cosine=float(torch.nn.functional.cosine_similarity(update, truth, dim=0)),
            length=float(update.norm() / truth.norm()),
            relative_error=float((update - truth).norm() / truth.norm()),
        )


class ScoredPrompts:
    """Prompts drawn evenly, with the gradient of each trajectory's score; for comparing many
    settings.
    """

    def __init__(
        self, enumerations: Sequence[Enumeration], *, correct_above: float | None = None
    ) -> None:
        """`correct_above` makes the reward 1 or 0, so that groups without a signal exist."""
        self._correct_above = correct_above
        loaded = enumerations[0].loaded
        unit = RlSpec(preset="exact")
        found = [each.trajectories() for each in enumerations]
        rewards = [self._reward(t) * t.probability for trajectories in found for t in trajectories]
        self.truth = gradient(loaded, torch.stack(rewards).sum() / len(found))
        self._prompts = [
            [
                (
                    t,
                    float(t.probability.detach()),
                    learner_update(loaded, [t.sample(each.prompt, 1.0)], unit),
                )
                for t in trajectories
            ]
            for each, trajectories in zip(enumerations, found, strict=True)
        ]

    def _reward(self, trajectory: Enumerated) -> float:
        return (
            trajectory.reward
            if self._correct_above is None
            else float(trajectory.reward > self._correct_above)
        )

    def bias(self, rl: RlSpec) -> Bias:
        """Of the expected update of a step of one group of two; groups that are dropped are
        replaced.
        """
        total, kept = torch.zeros_like(self.truth), 0.0
        for prompt in self._prompts:
            for (one, p, score), (other, q, other_score) in itertools.product(prompt, repeat=2):
                rewards = [self._reward(one), self._reward(other)]
                outcomes = [
                    Outcome.CORRECT if reward > 0.5 else Outcome.INCORRECT for reward in rewards
                ]
                if drop_reason(rewards, outcomes, rl) is not None:
                    continue
                kept += p * q / len(self._prompts)
                lengths = torch.tensor([len(t.token_ids) + len(t.rejected) for t in (one, other)])
                weights = MAX_TOKENS * token_weights(lengths, rl.normaliser, MAX_TOKENS)
                for a, w, s in zip(
                    group_advantages(rewards, rl.advantage),
                    weights,
                    (score, other_score),
                    strict=True,
                ):
                    total += p * q / len(self._prompts) * (a or 0.0) * w * s
        return Bias.of(total / kept, self.truth)
