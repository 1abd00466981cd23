"""Validation of a supervised stage: the held-out loss at an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.job_metrics import JobMetric
from services.trainer.learner.attempt_context import AttemptContext
from services.trainer.training.sft import SftExample


@dataclass
class Validation:
    """The held-out examples of one supervised stage."""

    context: AttemptContext
    held_out: Sequence[SftExample]
    num_steps: int

    def run_when_due(self) -> None:
        """Report the loss of the current weights at the interval and after the last step."""
        state, interval = self.context.state, self.context.spec.sft.validation_interval_steps
        if interval is None or (state.stage_step % interval and state.stage_step != self.num_steps):
            return
        with self.context.report.record_time(JobMetric.TIME_EVAL_S):
            loss = self.context.policy_model.sft_loss(self.held_out)
        self.context.report.metrics(state.global_step, {JobMetric.EVAL_LOSS: loss})
