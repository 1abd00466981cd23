"""Prompts out, scored groups back: the learner's side of the data plane."""

from collections import deque
from collections.abc import Sequence
from typing import Final

import redis

from services.common.errors import PlatformError
from services.common.streams import GroupConsumer, PromptQueue
from services.common.trajectory import PromptTask, ScoredGroup
from services.trainer.learner.process import StopSignal
from services.trainer.learner.replicas import Replicas
from services.trainer.learner.report import Reporter
from services.trainer.learner.request import LearnerRequest
from services.trainer.learner.weights import Weights

_MAX_OUTSTANDING: Final = 256
"""Prompts in the stream at once: what bounds Redis."""
_POLL_MS: Final = 500
_MAX_REFUSALS: Final = 3


class Rollouts:
    """Issues prompts and waits for their groups; strictly on-policy."""

    def __init__(
        self, request: LearnerRequest, client: redis.Redis, report: Reporter, stop: StopSignal, replicas: Replicas
    ) -> None:
        self._prompts = PromptQueue(client, request.prompts_stream)
        self._groups = GroupConsumer(client, request.groups_stream)
        self._report, self._stop = report, stop
        self.replicas = replicas
        self.refused = 0
        """Groups of other weights than asked for, since the attempt began."""

    def ready(self, weights: Weights) -> None:
        """Wait until a replica holds the weights. Raises what Replicas.supply raises."""
        self.replicas.moved()
        while self.replicas.supply(weights) == 0:
            self._report.phase("waiting", waiting_for="rollout")
            self._stop.check()
            self._stop.wait(_POLL_MS / 1000)

    def collect(self, tasks: Sequence[PromptTask], weights: Weights, phase: str) -> list[ScoredGroup]:
        """One group per task, by ledger position, every trajectory sampled under `weights`.

        Groups that were not asked for are left out (a prompt may be answered twice); a group with another weight
        version is refused and its prompt issued again. Raises StopRequestedError, `rollout_unavailable`,
        `queue_unavailable`, `deadline_exceeded`, `stale_weights`.
        """
        self.ready(weights)
        self._report.phase(phase)
        pending, issued = deque(tasks), dict[str, PromptTask]()
        refusals: dict[str, int] = {}
        groups: list[ScoredGroup] = []
        while pending or issued:
            self._stop.check()
            self._issue(pending, issued)
            for group in self._take(issued):
                if _is_current(group, weights):
                    groups.append(group)
                else:
                    pending.append(self._refuse(group, weights, refusals))
            alive = self.replicas.watch(weights) > 0
            self._report.phase(phase if alive else "waiting", waiting_for=None if alive else "rollout")
        return sorted(groups, key=lambda group: group.task.ledger_position)

    def _issue(self, pending: deque[PromptTask], issued: dict[str, PromptTask]) -> None:
        while pending and len(issued) < _MAX_OUTSTANDING:
            task = pending.popleft()
            issued[task.group_id] = task
            self._prompts.add(task)

    def _take(self, issued: dict[str, PromptTask]) -> list[ScoredGroup]:
        expected = []
        for group in self._groups.take(_POLL_MS):
            self.replicas.moved()
            task = issued.pop(group.task.group_id, None)
            if task is None:
                self._report.journal.say("warning", "unexpected_group", f"Group {group.task.group_id} was left out.")
            else:
                _require_complete(group, task)
                expected.append(group)
        return expected

    def _refuse(self, group: ScoredGroup, weights: Weights, refusals: dict[str, int]) -> PromptTask:
        name, versions = group.task.group_id, sorted({t.weight_version for t in group.trajectories})
        self.refused += 1
        refusals[name] = refusals.get(name, 0) + 1
        message = f"Group {name} was sampled under weight version {versions}; version {weights.version} was asked for."
        if refusals[name] > _MAX_REFUSALS:
            raise PlatformError("stale_weights", f"{message} It was refused {refusals[name]} times.")
        self._report.journal.say("warning", "stale_weights", f"{message} It is issued again.", replica=group.replica)
        return group.task


def _is_current(group: ScoredGroup, weights: Weights) -> bool:
    return all(trajectory.weight_version == weights.version for trajectory in group.trajectories)


def _require_complete(group: ScoredGroup, task: PromptTask) -> None:
    if len(group.trajectories) != task.num_generations:
        raise PlatformError(
            "internal",
            f"Group {task.group_id} came with {len(group.trajectories)} responses; {task.num_generations} were asked "
            "for. A replica answers a prompt wholly or not at all.",
            hint="Run the same release of the rollout and trainer services.",
        )
