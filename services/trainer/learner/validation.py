"""Validation of a supervised stage: the held-out loss at an interval, and which checkpoint had the
lowest.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.common.checkpoint.format import checkpoint_name
from services.common.checkpoint.store import write_file_durably
from services.common.job_metrics import JobMetric
from services.trainer.learner.attempt_context import AttemptContext
from services.trainer.learner.state import Best
from services.trainer.training.sft import SftExample

BEST_FILE: Final = "best.json"


@dataclass
class Validation:
    """The held-out examples of one supervised stage."""

    context: AttemptContext
    held_out: Sequence[SftExample]
    num_steps: int

    def run_when_due(self) -> bool:
        """Report the loss of the current weights at the interval and after the last step; True when
        it is the lowest.

        The caller stores the weights of the lowest loss so far; `mark_best` names their
        checkpoint.
        """
        state, interval = self.context.state, self.context.spec.sft.validation_interval_steps
        if interval is None or (state.stage_step % interval and state.stage_step != self.num_steps):
            return False
        with self.context.report.record_time(JobMetric.TIME_EVAL_S):
            loss = self.context.policy_model.sft_loss(self.held_out)
        self.context.report.metrics(state.global_step, {JobMetric.EVAL_LOSS: loss})
        # The earlier of two equal ones: less training for the same loss.
        if state.best is not None and state.best.loss <= loss:
            return False
        state.best = Best(step=state.global_step, loss=loss)
        return True

    def mark_best(self) -> None:
        """Name the best checkpoint in `checkpoints/best.json`, for people and programs that choose
        one.
        """
        best = self.context.state.best
        assert best is not None
        name = checkpoint_name(best.step)
        text = json.dumps({"checkpoint": name, **best.model_dump()}, indent=2)
        write_file_durably(self.context.request.checkpoints / BEST_FILE, f"{text}\n".encode())
        self.context.report.journal.say(
            "info",
            "best_checkpoint",
            f"{name} has the lowest validation loss so far, {best.loss:.4f}; it is kept until a better one exists.",
            step=best.step,
            loss=best.loss,
        )
