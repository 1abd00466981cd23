"""Admission control of a reinforcement stage: how many prompts are in flight.

A prompt that is issued at step s is trained on at step s + max_staleness at the latest: no more than
(max_staleness + 1) * prompts_per_step groups are ever in flight or gathered, and they are consumed in
the order of their issue, so that short responses never overtake long ones (a batch of whatever
finishes first would favour short answers). With max_staleness 0 nothing is asynchronous: what a step
consumes depends on the seed alone, not on which replica answered first.
"""

from collections import deque

from services.common.job_metrics import JobMetric
from services.trainer.learner.graded_group import GradedGroup
from services.trainer.learner.prompt_tasks import TrainingPrompts
from services.trainer.learner.rollouts import Rollouts
from services.trainer.learner.weight_snapshot import WeightSnapshot


class Admission:
    """Prompts in flight, in the order of their issue. The learner keeps the tasks; groups come back
    with their id alone.
    """

    def __init__(self, rollouts: Rollouts, prompts: TrainingPrompts, *, overlapped: bool) -> None:
        """`overlapped`: replicas decode while the learner trains (rl.max_staleness > 0)."""
        self._rollouts, self._prompts, self._overlapped = rollouts, prompts, overlapped
        self._in_flight: deque[str] = deque()
        self._has_begun = False

    def renew(self, weights: WeightSnapshot) -> None:
        """Send the weights to the replicas; overlapped, wait for the first version only."""
        with self._rollouts.report.record_time(JobMetric.TIME_WAIT_FOR_BATCH_S):
            if self._has_begun and self._overlapped:
                self._rollouts.replicas.renew(weights)
            else:
                self._rollouts.wait_until_ready(weights)
                self._has_begun = True

    def take_oldest(self, weights: WeightSnapshot, limit: int) -> GradedGroup:
        """Fill up to `limit` prompts in flight, then wait for the group of the oldest one.

        Raises what Rollouts.take raises.
        """
        with self._rollouts.report.record_time(JobMetric.TIME_WAIT_FOR_BATCH_S):
            tasks = self._prompts.issue(max(0, limit - len(self._in_flight)))
            self._in_flight.extend(task.group_id for task in tasks)
            self._rollouts.issue(tasks)
            # Taken off the queue only once it has arrived: a stop while waiting changes nothing.
            group = self._rollouts.take(
                self._in_flight[0], weights, "rollout", overlapped=self._overlapped
            )
            self._in_flight.popleft()
        return group
