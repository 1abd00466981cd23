"""Prompts out, scored groups back: the learner's side of the data plane."""

from collections import deque
from collections.abc import Sequence
from typing import Final

import redis

from services.common.errors import PlatformError
from services.common.streams import GroupConsumer, PromptQueue
from services.common.trajectory import PromptTask, ScoredGroup
from services.trainer.learner.graded_group import GradedGroup
from services.trainer.learner.journal import Reporter
from services.trainer.learner.lifecycle import StopSignal
from services.trainer.learner.replicas import Replicas
from services.trainer.learner.request import LearnerRequest
from services.trainer.learner.weight_snapshot import WeightSnapshot

_MAX_OUTSTANDING: Final = 256
"""Prompts in the stream at once: what bounds Redis."""
_POLL_MS: Final = 500
_MAX_REFUSALS: Final = 3


class Rollouts:
    """Issues prompts, joins what comes back with its task by group id, and keeps it until it is
    taken.

    A group whose id is not in flight is logged and dropped: its prompt was answered before (a
    prompt may be answered twice), or never issued by this attempt.
    """

    def __init__(
        self,
        request: LearnerRequest,
        client: redis.Redis,
        report: Reporter,
        stop: StopSignal,
        replicas: Replicas,
    ) -> None:
        self._prompts = PromptQueue(client, request.prompts_stream)
        self._groups = GroupConsumer(client, request.groups_stream)
        self.report, self._stop = report, stop
        self._pending: deque[PromptTask] = deque()
        """Issued, not in the stream yet."""
        self._in_flight: dict[str, PromptTask] = {}
        """In the stream, by group id."""
        self._arrived: dict[str, GradedGroup] = {}
        self.replicas = replicas

    def wait_until_ready(self, weights: WeightSnapshot) -> None:
        """Wait until a replica holds the weights. Raises what Replicas.supply raises."""
        self.replicas.note_progress()
        while self.replicas.supply(weights) == 0:
            self.report.phase("waiting", waiting_for="rollout")
            self._stop.check()
            self._stop.wait(_POLL_MS / 1000)

    def issue(self, tasks: Sequence[PromptTask]) -> None:
        """Send prompts to the replicas, in order, as far as the stream's bound allows; the rest
        follows.
        """
        if not self._in_flight:
            self.replicas.note_progress()
        self._pending.extend(tasks)
        self._send_pending()

    def take(
        self, group_id: str, weights: WeightSnapshot, phase: str, *, overlapped: bool = False
    ) -> GradedGroup:
        """Wait for the group of a prompt that was issued.

        Meanwhile replicas that lack the weights get them, `overlapped` with training or not (see
        Replicas.renew). Raises StopRequestedError, `rollout_unavailable`, `queue_unavailable`,
        `deadline_exceeded`, `parity_violation`.
        """
        self.report.phase(phase)
        while group_id not in self._arrived:
            self._stop.check()
            self._receive()
            self._send_pending()
            # A wait may last hours: replicas that were restarted get their weights meanwhile, and the
            # user sees whether any is there.
            is_alive = self.replicas.watch(weights, overlapped=overlapped) > 0
            self.report.phase(
                phase if is_alive else "waiting", waiting_for=None if is_alive else "rollout"
            )
        return self._arrived.pop(group_id)

    def collect(
        self, tasks: Sequence[PromptTask], weights: WeightSnapshot, phase: str
    ) -> list[GradedGroup]:
        """One group per task, in order, every trajectory sampled under `weights`.

        A group of another weight version is refused and its prompt issued again. Raises what `take`
        raises, and `stale_weights`.
        """
        self.wait_until_ready(weights)
        self.issue(tasks)
        return [self._take_current(task, weights, phase) for task in tasks]

    def _take_current(self, task: PromptTask, weights: WeightSnapshot, phase: str) -> GradedGroup:
        for _ in range(_MAX_REFUSALS + 1):
            group = self.take(task.group_id, weights, phase)
            versions = sorted({trajectory.weight_version for trajectory in group.trajectories})
            if versions == [weights.version]:
                return group
            message = (
                f"Group {task.group_id} was sampled under weight version {versions}; version {weights.version} was "
                "asked for."
            )
            again = f"{message} It is issued again."
            self.report.journal.say("warning", "stale_weights", again, replica=group.scored.replica)
            self.issue([task])
        raise PlatformError("stale_weights", f"{message} It was refused {_MAX_REFUSALS + 1} times.")

    def _send_pending(self) -> None:
        """Fill the stream up to its bound, in the order of issue."""
        while self._pending and len(self._in_flight) < _MAX_OUTSTANDING:
            task = self._pending.popleft()
            self._in_flight[task.group_id] = task
            self._prompts.add(task)

    def _receive(self) -> None:
        for scored in self._groups.take(_POLL_MS):
            self.replicas.note_progress()
            task = self._in_flight.pop(scored.group_id, None)
            if task is None:
                # Which of the two it was does not matter: the first answer of a prompt counts, and a
                # group without a task cannot be trained on.
                self.report.journal.say(
                    "warning",
                    "unexpected_group",
                    f"Group {scored.group_id} was dropped: no prompt in flight has this id; it was answered before, "
                    "or this attempt never issued it.",
                    replica=scored.replica,
                )
            else:
                _require_complete(scored, task)
                self._arrived[task.group_id] = GradedGroup(task, scored)


def _require_complete(scored: ScoredGroup, task: PromptTask) -> None:
    if len(scored.trajectories) != task.num_generations:
        raise PlatformError(
            "internal",
            f"Group {task.group_id} came with {len(scored.trajectories)} responses; {task.num_generations} were asked "
            "for. A replica sends all responses of a prompt or none.",
            hint="Run the same release of the rollout and trainer services.",
        )
