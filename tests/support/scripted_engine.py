"""An engine without a model whose every move the test decides."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
from torch import Tensor

from services.common.errors import PlatformError
from services.common.parity import DenoisingPath
from services.common.trajectory import (
    FinishReason,
    Float32s,
    Outcome,
    PromptTask,
    Response,
    ScoredGroup,
    Trajectory,
    Verdict,
)
from services.rollout.engines.base import GenerationRequest


class ScriptedEngine:
    """Finishes everything submitted in one step, newest first, unless `paused`; fails when told to."""

    def __init__(self) -> None:
        self.busy_s = 0.0
        self.generated_tokens = 0
        self.paused = False
        self.asleep = False
        self.step_error: Exception | None = None
        self.load_error: Exception | None = None
        self.close_error: Exception | None = None
        self.replayed_logprob = 0.0
        self.refuses: Callable[[GenerationRequest], bool] = lambda request: False
        self.loads: list[Mapping[str, Tensor]] = []
        self.queued: list[GenerationRequest] = []

    @property
    def has_work(self) -> bool:
        return bool(self.queued)

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        if any(self.refuses(request) for request in requests):
            raise PlatformError("invalid_request", "The prompt is too long for the cache.")
        self.queued.extend(requests)

    def step(self) -> dict[str, Response]:
        if self.step_error is not None:
            raise self.step_error
        if self.paused:
            return {}
        finished, self.queued = self.queued[::-1], []
        self.generated_tokens += 4 * len(finished)
        return {request.request_id: _respond(request) for request in finished}

    def replay(self, paths: Sequence[DenoisingPath]) -> list[Float32s]:
        return [np.full(len(path.token_ids), self.replayed_logprob, np.float32) for path in paths]

    def abort_all(self) -> None:
        self.queued.clear()

    def close(self) -> None:
        self.abort_all()
        if self.close_error is not None:
            raise self.close_error

    def sleep(self) -> None:
        self.asleep = True

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        if self.load_error is not None:
            raise self.load_error
        self.asleep = False
        self.loads.append(tensors)


def _respond(request: GenerationRequest) -> Response:
    return Response(
        token_ids=np.full(4, request.response_index, np.int32),
        unmask_step=np.arange(1, 5, dtype=np.int32),
        logprobs=np.zeros(4, np.float32),
        confidences=np.ones(4, np.float32),
        visible_len=4,
        finish_reason=FinishReason.LENGTH,
        num_forwards=5,
    )


class InstantGrader:
    """Calls every response correct, at once."""

    def grade(
        self,
        task: PromptTask,
        trajectories: Sequence[Trajectory],
        rollout_s: float,
        refusal: str = "",
    ) -> "Future[ScoredGroup]":
        future: Future[ScoredGroup] = Future()
        verdict = Verdict(outcome=Outcome.CORRECT, reason=refusal)
        future.set_result(
            ScoredGroup(
                group_id=task.group_id,
                trajectories=tuple(replace(t, verdict=verdict) for t in trajectories),
                replica="scripted",
                rollout_s=rollout_s,
                reward_s=0.0,
                finished_at=0.0,
            )
        )
        return future

    def close(self) -> None:
        pass
