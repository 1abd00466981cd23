"""Prompts out, scored groups back: the learner's side of the data plane."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import redis

from services.common.errors import PlatformError
from services.common.events import STREAMS_LOST
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
_RESTORE_EVERY_S: Final = 2.0
"""How often the learner looks for prompts that Redis lost."""
_MAX_LOSSES: Final = 5
_OUTAGE_S: Final = 120.0
"""How long the learner waits for a Redis server that does not respond."""
_OUTAGE_RETRY_S: Final = 1.0


@dataclass(frozen=True)
class _IssuedPrompt:
    """A prompt in flight, and its entry in the stream."""

    task: PromptTask
    entry_id: str


class Rollouts:
    """Issues prompts, joins what comes back with its task by group id, and keeps it until it is
    taken.

    A group whose id is not in flight is logged and dropped: its prompt was answered before (a
    prompt may be answered twice), or never issued by this attempt. A prompt that Redis lost is
    issued again under the same group id, so it is decoded with the same seed and trained once.
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
        self._groups = GroupConsumer(
            client,
            request.groups_stream,
            refuse=partial(report.journal.say, "warning", "undecodable_group"),
        )
        self.report, self._stop = report, stop
        self._pending: deque[PromptTask] = deque()
        """Issued, not in the stream yet."""
        self._in_flight: dict[str, _IssuedPrompt] = {}
        """In the stream, by group id."""
        self._arrived: dict[str, GradedGroup] = {}
        self.replicas = replicas
        self._next_restore = time.monotonic() + _RESTORE_EVERY_S
        self._losses = 0
        """Times in a row that Redis lost something before a group arrived."""
        self._unavailable_since: float | None = None

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
        with self._tolerating_outage():
            self._send_pending()

    def take(
        self, group_id: str, weights: WeightSnapshot, phase: str, *, overlapped: bool = False
    ) -> GradedGroup:
        """Wait for the group of a prompt that was issued.

        Meanwhile replicas that lack the weights get them, `overlapped` with training or not (see
        Replicas.renew), and what Redis lost is restored. Raises StopRequestedError,
        `rollout_unavailable`, `queue_unavailable`, `deadline_exceeded`, `parity_violation`.
        """
        self.report.phase(phase)
        while group_id not in self._arrived:
            self._stop.check()
            with self._tolerating_outage():
                self._receive(_POLL_MS)
                self._restore_lost()
                self._send_pending()
            self._require_lasting_streams()
            # A wait may last hours: replicas that were restarted get their weights meanwhile, and the
            # user sees whether any is there.
            is_alive = self.replicas.watch(weights, overlapped=overlapped) > 0
            awaited = "redis" if self._unavailable_since else None if is_alive else "rollout"
            self.report.phase("waiting" if awaited else phase, waiting_for=awaited)
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
            task = self._pending[0]
            self._in_flight[task.group_id] = _IssuedPrompt(task, self._prompts.add(task))
            # Only now: a prompt whose append failed is sent again.
            self._pending.popleft()

    def _receive(self, block_ms: int) -> int:
        """Take groups that have arrived, waiting for the first; returns how many."""
        received = self._groups.take(block_ms)
        for scored in received:
            self.replicas.note_progress()
            self._losses = 0
            issued = self._in_flight.pop(scored.group_id, None)
            if issued is None:
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
                _require_complete(scored, issued.task)
                self._arrived[scored.group_id] = GradedGroup(issued.task, scored)
        return len(received)

    def _restore_lost(self) -> None:
        """Every few seconds, make a missing consumer group again, and issue prompts again whose
        entries and groups Redis lost: FLUSHALL, eviction, a deleted key, a restart.
        """
        if time.monotonic() < self._next_restore:
            return
        self._next_restore = time.monotonic() + _RESTORE_EVERY_S
        was_missing = self._prompts.ensure_group()
        gone = self._prompts.find_missing([issued.entry_id for issued in self._in_flight.values()])
        # A replica replaces the entry by the group in one step, so the group of a prompt that was
        # answered is in the stream by now. What is in neither is lost.
        while self._receive(block_ms=0):
            pass
        lost = [issued.task for issued in self._in_flight.values() if issued.entry_id in gone]
        if lost or was_missing:
            self._reissue(lost)

    def _reissue(self, lost: Sequence[PromptTask]) -> None:
        self._losses += 1
        message = (
            f"Redis lost streams of this attempt: {len(lost)} prompts are issued again. FLUSHALL, XGROUP DESTROY, a "
            "deleted key, a restart, or an eviction (maxmemory-policy must be noeviction) does that."
        )
        self.report.journal.say("warning", STREAMS_LOST, message, prompts=len(lost))
        for task in lost:
            del self._in_flight[task.group_id]
        # Ahead of what was never sent: groups are trained in the order of issue.
        self._pending.extendleft(reversed(lost))
        self.replicas.note_progress()

    def _require_lasting_streams(self) -> None:
        """Raise `queue_unavailable` when Redis loses prompts faster than replicas answer them."""
        if self._losses >= _MAX_LOSSES:
            raise PlatformError(
                "queue_unavailable",
                f"Redis lost the streams of this attempt {self._losses} times before a group arrived.",
                hint="Set its maxmemory-policy to noeviction, give it more memory, and see who deletes keys.",
            )

    @contextmanager
    def _tolerating_outage(self) -> Iterator[None]:
        """Wait for a Redis server that does not respond, up to two minutes: a restart must not cost
        an attempt. Raises `queue_unavailable` afterwards.
        """
        try:
            yield
        except PlatformError as error:
            if error.code != "queue_unavailable":
                raise
            now = time.monotonic()
            if self._unavailable_since is None:
                self._unavailable_since = now
                message = f"{error.message} The attempt waits for it, {_OUTAGE_S:.0f} s at most."
                self.report.journal.say("warning", error.code, message)
            elif now - self._unavailable_since > _OUTAGE_S:
                raise
            self._stop.wait(_OUTAGE_RETRY_S)
        else:
            if self._unavailable_since is not None:
                seconds = time.monotonic() - self._unavailable_since
                message = f"Redis responds again after {seconds:.0f} s."
                self.report.journal.say("info", "queue_available", message)
                self._unavailable_since = None


def _require_complete(scored: ScoredGroup, task: PromptTask) -> None:
    if len(scored.trajectories) != task.num_generations:
        raise PlatformError(
            "internal",
            f"Group {task.group_id} came with {len(scored.trajectories)} responses; {task.num_generations} were asked "
            "for. A replica sends all responses of a prompt or none.",
            hint="Run the same release of the rollout and trainer services.",
        )
