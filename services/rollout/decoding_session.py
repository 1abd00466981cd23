"""One attempt on one replica: takes prompts, decodes them in one batch, has them graded, answers
them.

Belongs to the engine thread; only the properties for the status are read by others. A prompt is in
one place at a time: held (its weights have not arrived) → decoding → grading → answered. It stays
leased in the stream until then, so whatever happens to this process, another replica gets it. When
Redis loses its entry, the learner issues it again, and the response that is being decoded answers
the new entry.
"""

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from services.common.errors import PlatformError
from services.common.ids import trajectory_id
from services.common.streams import GroupQueue, Leased, PromptConsumer
from services.common.telemetry.logs import get_logger
from services.common.trajectory import PromptTask, Response, ScoredGroup, Trajectory
from services.rollout.assignment import LoadedWeights
from services.rollout.engines.base import GenerationRequest, RolloutEngine
from services.rollout.grading import ABORTED_RESPONSE, GradingClient

_QUEUE_RETRY_S: Final = 1.0
_RENEWALS_PER_LEASE: Final = 4

log = get_logger()


@dataclass
class _GroupInProgress:
    """A prompt whose responses are being decoded."""

    entry_id: str
    task: PromptTask
    weights: LoadedWeights
    taken_at: float
    responses: dict[str, Response] = field(default_factory=dict)
    """Finished ones, by request id."""


@dataclass(frozen=True)
class StreamEnds:
    """The attempt's streams, as this replica uses them."""

    prompts: PromptConsumer
    groups: GroupQueue
    lease_s: float


class DecodingSession:
    """The data path of one assignment."""

    def __init__(
        self, engine: RolloutEngine, slots: int, streams: StreamEnds, grader: GradingClient
    ) -> None:
        self.engine = engine
        self._slots, self._streams, self._grader = slots, streams, grader
        self._weights: LoadedWeights | None = None
        self._held: list[Leased[PromptTask]] = []
        self._decoding: dict[str, _GroupInProgress] = {}
        self._grading: list[tuple[_GroupInProgress, Future[ScoredGroup]]] = []
        self._surplus: list[str] = []
        """Entries of prompts that were delivered twice and whose group is being decoded already."""
        self._generations_per_prompt = slots
        self._renew_at = 0.0
        self._queue_retry_at = 0.0
        self.queue_error = ""
        """Why Redis cannot be used at the moment; decoding continues meanwhile."""

    @property
    def is_decoding(self) -> bool:
        """Whether responses are being decoded; weights must not change then."""
        return self.engine.has_work

    @property
    def inflight_groups(self) -> int:
        """Prompts taken and not yet answered."""
        return len(self._leased_entries())

    def use(self, weights: LoadedWeights) -> None:
        """Decode with this version from now on; called when nothing is being decoded."""
        self._weights = weights
        held, self._held = self._held, []
        for leased in held:
            self._admit(leased)

    def turn(self, taking: bool) -> None:
        """One round: exchange with Redis, then one engine step. Never waits for work."""
        self._exchange(taking)
        if self.engine.has_work:
            for request_id, response in self.engine.step().items():
                group = self._decoding.pop(request_id)
                group.responses[request_id] = response
                if len(group.responses) == group.task.num_generations:
                    self._grade(group)

    def close(self) -> None:
        """Abandon everything and let other replicas have the prompts at once."""
        self._grader.close()
        try:
            self._streams.prompts.give_back(self._leased_entries())
        except PlatformError as error:
            log.warning("prompts not given back, their leases must lapse", error=str(error))
        self.engine.close()

    def _exchange(self, taking: bool) -> None:
        if time.monotonic() < self._queue_retry_at:
            return
        try:
            now = time.monotonic()
            # Several renewals per lease, so that one that fails does not lose the prompts.
            if now >= self._renew_at:
                self._streams.prompts.renew(self._leased_entries())
                self._renew_at = now + self._streams.lease_s / _RENEWALS_PER_LEASE
            self._answer_graded()
            if self._surplus:
                log.warning("prompts delivered twice are dropped", entries=self._surplus)
                self._streams.prompts.ack(self._surplus)
                self._surplus = []
            if taking:
                self._take()
            self.queue_error = ""
        except PlatformError as error:
            if error.code != "queue_unavailable":
                raise
            log.warning("queue unavailable", error=str(error), retry_s=_QUEUE_RETRY_S)
            self.queue_error = str(error)
            self._queue_retry_at = time.monotonic() + _QUEUE_RETRY_S

    def _leased_entries(self) -> list[str]:
        # A copy, because the thread that serves the status reads this while the engine thread changes
        # it. A dict, because every response of a group has the same entry.
        decoding = {group.entry_id: None for group in self._decoding.copy().values()}
        return (
            [leased.entry_id for leased in self._held]
            + list(decoding)
            + [group.entry_id for group, _ in self._grading.copy()]
        )

    def _answer_graded(self) -> None:
        for item in [item for item in self._grading if item[1].done()]:
            group, future = item
            scored = future.result()
            if not self._streams.prompts.answer(group.entry_id, self._streams.groups, scored):
                log.warning(
                    "group discarded: another replica answered first, or Redis lost the prompt",
                    group_id=scored.group_id,
                )
            self._grading.remove(item)

    def _take(self) -> None:
        """Take as many prompts as fill the free slots, when none waits for weights already."""
        free = self._slots - len(self._decoding)
        if free <= 0 or self._held:
            return
        # At least one prompt: responses beyond the free slots wait in the queue of the engine.
        for leased in self._streams.prompts.take(
            max(1, free // self._generations_per_prompt), block_ms=0
        ):
            self._admit(leased)

    def _admit(self, leased: Leased[PromptTask]) -> None:
        if self._weights is None or self._weights.version < leased.value.min_weight_version:
            self._held.append(leased)
        elif (group := self._find_in_progress(leased.value.group_id)) is not None:
            # The newer entry is the one to answer: the older one may be lost with its stream.
            self._surplus.append(group.entry_id)
            group.entry_id = leased.entry_id
        else:
            self._start(leased, self._weights)

    def _find_in_progress(self, group_id: str) -> _GroupInProgress | None:
        in_progress = [*self._decoding.values(), *(group for group, _ in self._grading)]
        return next((group for group in in_progress if group.task.group_id == group_id), None)

    def _start(self, leased: Leased[PromptTask], weights: LoadedWeights) -> None:
        task = leased.value
        group = _GroupInProgress(leased.entry_id, task, weights, time.monotonic())
        self._generations_per_prompt = task.num_generations
        requests = [
            GenerationRequest(
                request_id=trajectory_id(task.group_id, index),
                prompt_ids=task.prompt_ids,
                decoding=task.decoding,
                seed=task.seed,
                ledger_position=task.ledger_position,
                response_index=index,
            )
            for index in range(task.num_generations)
        ]
        try:
            self.engine.submit(requests)
        except PlatformError as error:
            # Answered as aborted: given back to the stream, it would be refused again.
            log.warning("prompt refused by the engine", group_id=task.group_id, error=str(error))
            self._grade(group, str(error))
            return
        self._decoding.update((request.request_id, group) for request in requests)

    def _grade(self, group: _GroupInProgress, refusal: str = "") -> None:
        """Have the group graded; responses that were never decoded count as aborted."""
        rollout_s = time.monotonic() - group.taken_at
        # In the order of their index, so that a group does not depend on the order of completion.
        ids = [
            trajectory_id(group.task.group_id, index) for index in range(group.task.num_generations)
        ]
        trajectories = tuple(
            Trajectory(
                trajectory_id=id_,
                response_index=index,
                weight_version=group.weights.version,
                weight_digest=group.weights.digest,
                response=group.responses.get(id_, ABORTED_RESPONSE),
            )
            for index, id_ in enumerate(ids)
        )
        grading = self._grader.grade(group.task, trajectories, rollout_s, refusal)
        self._grading.append((group, grading))
