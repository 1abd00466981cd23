"""The learner's side of the parity gate: fixed responses, scored anew at every weight version."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.common.model.loading import LoadedModel
from services.common.parity import DenoisingPath, ParityProbe
from services.common.trajectory import FinishReason, Int32s, Response
from services.trainer.training.policy_model import PolicyModel
from services.trainer.training.trajectory_rows import Sample

PROMPTS: Final = 4
TOLERANCES: Final = {"fp32": 1e-4, "bf16": 0.1}
"""By the trainer's precision: in fp32 ten times what engine and trainer differ by; in bf16 an
estimate.
"""
_BLOCKS: Final = 2
"""Enough that the second block reads the first one's keys and values from the replica's cache."""
_STEPS_PER_BLOCK: Final = 3


@dataclass(frozen=True)
class ParityGate:
    """Denoising paths of a job, and the tolerated difference of log-probabilities."""

    paths: tuple[DenoisingPath, ...]
    tolerance: float

    def probe(self, policy_model: PolicyModel) -> ParityProbe:
        """Return the paths with their log-probabilities under the current weights."""
        logprobs = policy_model.compute_logprobs(
            [_sample(number, path) for number, path in enumerate(self.paths)]
        )
        return ParityProbe(paths=self.paths, logprobs=tuple(logprobs), tolerance=self.tolerance)


def make_parity_gate(
    prompts: Sequence[Int32s],
    loaded: LoadedModel,
    *,
    seed: int,
    max_new_tokens: int,
    tolerance: float,
) -> ParityGate:
    """Make a gate of random responses, up to two blocks each, to the first prompts; the same for
    every attempt of a job.
    """
    # Random tokens, not sampled ones: the paths must be the same at every weight version and in every
    # attempt.
    rng = np.random.default_rng(seed)
    allowed = loaded.sampleable.nonzero()[:, 0].cpu().numpy()
    budget = min(max_new_tokens, _BLOCKS * loaded.block_size)
    paths = [_path(prompt, allowed, loaded.block_size, budget, rng) for prompt in prompts[:PROMPTS]]
    return ParityGate(tuple(paths), tolerance)


def _path(
    prompt: Int32s, allowed: np.ndarray, block_size: int, budget: int, rng: np.random.Generator
) -> DenoisingPath:
    end = -(-(len(prompt) + budget) // block_size) * block_size
    blocks = np.arange(len(prompt), end) // block_size
    # A token's step is the rank of (block, draw): dense, and no block begins before the last one is
    # done.
    draws = blocks * _STEPS_PER_BLOCK + rng.integers(0, _STEPS_PER_BLOCK, size=len(blocks))
    return DenoisingPath(
        prompt_ids=prompt,
        token_ids=rng.choice(allowed, size=len(blocks)).astype(np.int32),
        unmask_step=(np.unique(draws, return_inverse=True)[1] + 1).astype(np.int32),
    )


def _sample(number: int, path: DenoisingPath) -> Sample:
    unknown = np.zeros(len(path.token_ids), np.float32)  # no engine has decoded it
    return Sample(
        trajectory_id=f"probe-{number}",
        prompt_ids=path.prompt_ids,
        response=Response(
            token_ids=path.token_ids,
            unmask_step=path.unmask_step,
            logprobs=unknown,
            confidences=unknown,
            visible_len=len(path.token_ids),
            finish_reason=FinishReason.LENGTH,
            num_forwards=0,
        ),
        advantage=0.0,
    )
