"""Prompt tasks: what the learner has the rollout replicas decode, for training and for evaluation."""

import time
from dataclasses import dataclass
from typing import Final

from services.common.diffusion.config import DecodingConfig
from services.common.grader_spec import grader_text
from services.common.ids import group_id
from services.common.trajectory import PromptTask, Purpose
from services.trainer.learner.attempt_context import AttemptContext
from services.trainer.learner.datasets import Dataset, EncodedPrompt
from services.trainer.learner.state import StageLedger

VALIDATION: Final = "validation"
"""Name of the job's evaluation set, also in the names of its metrics."""


def make_prompt_task(
    context: AttemptContext,
    prompt: EncodedPrompt,
    position: int,
    purpose: Purpose,
    round_: int,
    decoding: DecodingConfig,
) -> PromptTask:
    """Make the task of one prompt under the current spec and weights.

    `position` is its ledger position, or its place in the evaluation set; `round_` tells issues of
    the same position apart (see services.common.ids.group_id).
    """
    request, spec = context.request, context.spec
    is_training = purpose is Purpose.TRAIN
    return PromptTask(
        job_id=request.job_id,
        attempt=request.attempt,
        group_id=group_id(request.job_id, request.attempt, purpose.value, round_, position),
        ledger_position=position,
        purpose=purpose,
        dataset="" if is_training else VALIDATION,
        prompt_ids=prompt.prompt_ids,
        reference_answer=prompt.reference_answer,
        answer_type=prompt.answer_type or "",
        row=prompt.row,
        num_generations=spec.rl.num_generations if is_training else spec.eval.num_generations,
        seed=spec.seed,
        min_weight_version=context.state.global_step,
        decoding=decoding,
        graders=tuple(map(grader_text, spec.reward.graders)),
        grading_timeout_s=spec.reward.timeout_s,
        issued_at=time.time(),
    )


@dataclass(frozen=True)
class TrainingPrompts:
    """The prompts of a reinforcement stage, in the order of its ledger."""

    context: AttemptContext
    dataset: Dataset[EncodedPrompt]
    ledger: StageLedger
    decoding: DecodingConfig

    def issue(self, count: int) -> list[PromptTask]:
        """Make tasks of the next `count` positions, which are open in the ledger from now on."""
        step = self.context.state.global_step + 1
        return [
            make_prompt_task(
                self.context,
                self.dataset.items[self.row(position)],
                position,
                Purpose.TRAIN,
                step,
                self.decoding,
            )
            for position in self.ledger.ledger.issue(count)
        ]

    def row(self, position: int) -> int:
        """Return the row of an open position."""
        spec = self.context.spec
        return self.ledger.row(position, spec.rl.curriculum, f"{spec.seed}:rl")
