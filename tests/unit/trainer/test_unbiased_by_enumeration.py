"""The expectation of the trainer's own update, over every possible group of two, against the true policy gradient.

The model decodes prompts over a vocabulary of three tokens in blocks of two; token 0 ends the response at the end of
its block. Every trajectory is enumerated with its probability as a differentiable function of the weights, so the
expected reward and its gradient are exact. Then every pair of trajectories goes through group_advantages and
train_rl_minibatch as a mini-batch of its own, and the gradients are averaged with the pairs' probabilities.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.diffusion.rules import commit_mask, confidences
from services.common.job_spec import OptimSpec, RlSpec, SamplingSpec, TrainerSpec
from services.common.model.loading import LoadedModel
from services.trainer.advantage import group_advantages
from services.trainer.policy import Policy, train_rl_minibatch
from services.trainer.trajectory_rows import Sample
from tests.support.numerics import gradient, state_logprobs, tiny_loaded

BLOCK, MASK, STOP, MAX_TOKENS = 2, 3, 0, 4
THRESHOLD, ENTROPY_BOUND = 0.6, 1.8

Commit = dict[int, int]
"""Offset in the block to token."""


@dataclass
class Enumerated:
    """One trajectory."""

    token_ids: list[int]
    steps: list[int]
    logprobs: list[float]
    probability: Tensor
    """0-dim, with gradient."""

    @property
    def reward(self) -> float:
        """An arbitrary number that depends on all visible tokens, and on nothing else."""
        end = self.token_ids.index(STOP) + 1 if STOP in self.token_ids else len(self.token_ids)
        return float(np.random.default_rng(self.token_ids[:end]).uniform())


def _decoding(strategy: UnmaskingStrategy, selection: Selection) -> DecodingConfig:
    return DecodingConfig(
        block_size=BLOCK, denoising_steps=BLOCK, unmasking_strategy=strategy, confidence_threshold=THRESHOLD,
        entropy_bound=ENTROPY_BOUND, selection=selection, mask_token_id=MASK, temperature=1.0, top_p=1.0, top_k=0,
        max_new_tokens=MAX_TOKENS, stop_token_ids=(STOP,),
    )  # fmt: skip


MAX = _decoding(UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC, Selection.MAX)
SAMPLED = _decoding(UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC, Selection.SAMPLED)
SEQUENTIAL = _decoding(UnmaskingStrategy.SEQUENTIAL, Selection.MAX)
ENTROPY_BOUNDED = _decoding(UnmaskingStrategy.ENTROPY_BOUNDED, Selection.MAX)


def _ways(decoding: DecodingConfig, logprobs: Tensor, masked: list[int]) -> Iterator[tuple[Commit, Tensor]]:
    """Every draw of candidates at the masked offsets of a block [B, V]: what it commits, and its probability."""
    where = torch.zeros(1, BLOCK, dtype=torch.bool)
    where[0, masked] = True
    known = logprobs.detach()[None]
    for tokens in itertools.product(range(MASK), repeat=len(masked)):
        candidates = torch.zeros(1, BLOCK, dtype=torch.long)
        candidates[0, masked] = torch.tensor(tokens)
        committed = commit_mask(decoding, where, confidences(decoding, known, candidates), known)[0]
        kept = {offset: token for offset, token in zip(masked, tokens, strict=True) if committed[offset]}
        yield kept, logprobs[masked, list(tokens)].sum().exp()


def _enumerate(loaded: LoadedModel, prompt: list[int], decoding: DecodingConfig) -> list[Enumerated]:
    start = Enumerated([], [], [], torch.ones((), dtype=torch.float64))
    return list(_open_block(loaded, prompt, decoding, start))


def _open_block(
    loaded: LoadedModel, prompt: list[int], decoding: DecodingConfig, so_far: Enumerated
) -> Iterator[Enumerated]:
    """Every way on from a finished block; the first one also holds the prompt's tail."""
    if STOP in so_far.token_ids or len(so_far.token_ids) > MAX_TOKENS - BLOCK:
        yield so_far
        return
    fresh = BLOCK - (len(prompt) + len(so_far.token_ids)) % BLOCK
    opened = Enumerated(
        so_far.token_ids + [MASK] * fresh,
        so_far.steps + [0] * fresh,
        so_far.logprobs + [0.0] * fresh,
        so_far.probability,
    )
    yield from _denoise(loaded, prompt, decoding, opened, max(so_far.steps, default=0) + 1)


def _denoise(
    loaded: LoadedModel, prompt: list[int], decoding: DecodingConfig, state: Enumerated, step: int
) -> Iterator[Enumerated]:
    if MASK not in state.token_ids:
        yield from _open_block(loaded, prompt, decoding, state)
        return
    logprobs = state_logprobs(loaded, prompt + state.token_ids)
    first = len(state.token_ids) - BLOCK
    masked = [offset for offset in range(BLOCK) if first + offset >= 0 and state.token_ids[first + offset] == MASK]
    for commit, probability in _merged(_ways(decoding, logprobs, masked)):
        following = Enumerated(
            list(state.token_ids), list(state.steps), list(state.logprobs), state.probability * probability
        )
        for offset, token in commit:
            following.token_ids[first + offset] = token
            following.steps[first + offset] = step
            following.logprobs[first + offset] = float(logprobs[offset, token].detach())
        yield from _denoise(loaded, prompt, decoding, following, step + 1)


def _merged(ways: Iterator[tuple[Commit, Tensor]]) -> list[tuple[tuple[tuple[int, int], ...], Tensor]]:
    """Ways that commit the same tokens are one: their probabilities add up."""
    total: dict[tuple[tuple[int, int], ...], Tensor] = {}
    for commit, probability in ways:
        key = tuple(commit.items())
        total[key] = total[key] + probability if key in total else probability
    return list(total.items())


def _sample(prompt: list[int], trajectory: Enumerated, advantage: float) -> Sample:
    return Sample(
        trajectory_id="traj_" + "".join(map(str, trajectory.token_ids)),
        prompt_ids=np.array(prompt, dtype=np.int32),
        token_ids=np.array(trajectory.token_ids, dtype=np.int32),
        unmask_step=np.array(trajectory.steps, dtype=np.int32),
        logprobs=np.array(trajectory.logprobs),
        advantage=advantage,
    )


def _expected_update(loaded: LoadedModel, prompt: list[int], all_: list[Enumerated], rl: RlSpec) -> Tensor:
    """Expectation of the direction in which one step on a group of two moves the weights, times MAX_TOKENS."""
    optimizer, sampling = torch.optim.SGD(loaded.model.parameters(), lr=0.0), SamplingSpec(max_new_tokens=MAX_TOKENS)
    optim = OptimSpec(max_grad_norm=1e9)
    total = torch.zeros(sum(p.numel() for p in loaded.model.parameters()), dtype=torch.float64)
    for one, other in itertools.combinations_with_replacement(all_, 2):
        advantages = group_advantages([one.reward, other.reward], rl.advantage)
        pair = [_sample(prompt, t, a) for t, a in zip((one, other), advantages, strict=True) if a is not None]
        train_rl_minibatch(Policy(loaded=loaded, trainer=TrainerSpec()), optimizer, pair, rl, sampling, optim)
        moved = -torch.cat([parameter.grad.flatten() for parameter in loaded.model.parameters()])  # type: ignore[union-attr]
        orders = 1 if one is other else 2
        total += orders * float(one.probability.detach() * other.probability.detach()) * MAX_TOKENS * moved
    return total


def _truth_and_update(
    loaded: LoadedModel, prompt: list[int], decoding: DecodingConfig, rl: RlSpec
) -> tuple[Tensor, Tensor]:
    """Gradient of the expected reward, and the expected update."""
    trajectories = _enumerate(loaded, prompt, decoding)
    assert float(torch.stack([t.probability.detach() for t in trajectories]).sum()) == pytest.approx(1, abs=1e-12)
    truth = gradient(loaded, torch.stack([t.reward * t.probability for t in trajectories]).sum())
    return truth, _expected_update(loaded, prompt, trajectories, rl)


def _relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded(vocab_size=MASK + 1, block_size=BLOCK, seed=4, hidden_size=8, layers=1)


EXACT = RlSpec(advantage="leave_one_out", normaliser="constant", dynamic_sampling=False)
ALIGNED, UNALIGNED = [1, 2], [1, 2, 1]


@pytest.mark.parametrize(
    ("decoding", "prompt"),
    [(MAX, ALIGNED), (MAX, UNALIGNED), (SEQUENTIAL, UNALIGNED), (ENTROPY_BOUNDED, UNALIGNED)],
    ids=["max-aligned", "max", "sequential", "entropy_bounded"],
)
def test_the_exact_settings_estimate_the_true_gradient_without_bias(
    loaded: LoadedModel, decoding: DecodingConfig, prompt: list[int]
) -> None:
    truth, update = _truth_and_update(loaded, prompt, decoding, EXACT)

    assert _relative_error(update, truth) < 1e-9


@pytest.mark.parametrize("decoding", [MAX, ENTROPY_BOUNDED], ids=["max", "entropy_bounded"])
@pytest.mark.parametrize(("prompt", "lengths"), [(ALIGNED, {2, 4}), (UNALIGNED, {1, 3})], ids=["aligned", "unaligned"])
def test_what_is_enumerated_varies_in_length_and_in_steps_per_block(
    loaded: LoadedModel, prompt: list[int], lengths: set[int], decoding: DecodingConfig
) -> None:
    trajectories = _enumerate(loaded, prompt, decoding)

    assert {len(t.token_ids) for t in trajectories} == lengths
    assert {t.steps[i] == t.steps[i + 1] for t in trajectories for i in range(len(t.steps) % 2, len(t.steps), 2)} == {
        True,
        False,
    }


def test_accepted_tokens_of_the_sampled_rule_are_a_biased_estimate(loaded: LoadedModel) -> None:
    """The published combination: which candidate is accepted depends on those that were rejected."""
    truth, update = _truth_and_update(loaded, UNALIGNED, SAMPLED, EXACT)

    assert _relative_error(update, truth) > 0.1


def test_the_group_mean_halves_the_gradient_of_a_group_of_two(loaded: LoadedModel) -> None:
    """1 − 1/G: the response's own reward is part of its baseline."""
    rl = EXACT.model_copy(update={"advantage": "mean"})

    truth, update = _truth_and_update(loaded, UNALIGNED, MAX, rl)

    assert _relative_error(update, truth / 2) < 1e-9


@pytest.mark.parametrize(
    "changed", [{"advantage": "std"}, {"normaliser": "token"}, {"normaliser": "response"}], ids=str
)
def test_the_practical_settings_change_the_direction(loaded: LoadedModel, changed: dict[str, str]) -> None:
    truth, update = _truth_and_update(loaded, UNALIGNED, MAX, EXACT.model_copy(update=changed))

    cosine = float(torch.nn.functional.cosine_similarity(update, truth, dim=0))
    assert 0 < cosine < 0.9999
