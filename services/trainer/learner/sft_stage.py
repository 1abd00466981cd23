"""Supervised fine-tuning: batches in the seeded order, one optimizer step each."""

from collections.abc import Sequence
from typing import Literal

from services.common.job_metrics import JobMetric
from services.trainer.learner.attempt_context import AttemptContext, training_performance
from services.trainer.learner.datasets import Dataset
from services.trainer.learner.ledger import StepRecord
from services.trainer.learner.stage import StepOutcome
from services.trainer.learner.state import StageLedger
from services.trainer.learner.validation import Validation
from services.trainer.training.schedule import learning_rate
from services.trainer.training.sft import SftExample


def count_sft_steps(num_rows: int, epochs: int, batch_size: int, max_steps: int | None) -> int:
    """Count the optimizer steps of the stage: batches cross epoch boundaries, only the last one
    may be smaller.
    """
    steps = -(-num_rows * epochs // batch_size)
    return steps if max_steps is None else min(steps, max_steps)


class SftStage:
    """One supervised stage."""

    name: Literal["sft", "rl"] = "sft"

    def __init__(
        self,
        context: AttemptContext,
        dataset: Dataset[SftExample],
        prompts: StageLedger,
        num_steps: int,
        held_out: Sequence[SftExample],
    ) -> None:
        self._context, self._dataset, self._prompts = context, dataset, prompts
        self.num_steps = num_steps
        self.validation = Validation(context, held_out, num_steps) if held_out else None

    def step(self) -> StepOutcome:
        """Train on the next batch."""
        state, report = self._context.state, self._context.report
        sft, ledger = self._context.spec.sft, self._prompts.ledger
        # The last batch of the last epoch may be smaller; positions that a former attempt left open
        # are part of it.
        left = len(self._dataset.items) * sft.epochs - ledger.next_position
        left += len(ledger.open_positions())
        positions = ledger.issue(min(sft.batch_size, left))
        examples = [
            self._dataset.items[self._prompts.order.row(position)] for position in positions
        ]
        optim = self._context.spec.optim_of("sft")
        lr = learning_rate(optim, state.stage_step + 1, self.num_steps)
        report.phase("train")
        with report.record_time(JobMetric.TIME_TRAIN_S):
            metrics = self._context.policy_model.train_sft(examples, state.global_step, lr)
        record = StepRecord(
            stage=self.name, step=state.global_step + 1, trained=tuple(positions), dropped={}
        )
        performance = training_performance(
            self._context, sum(len(example.token_ids) for example in examples)
        )
        return StepOutcome(record, [], {**metrics, **performance})
