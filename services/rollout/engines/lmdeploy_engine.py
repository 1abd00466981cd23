"""LMDeploy behind the engine protocol: GPU only, in this process, no server and no ray.

LMDeploy's decoding rule is engine-wide, so that responses under another rule wait until those in flight are done. Its
randomness is keyed by a 32-bit seed that is derived from the response's key, so that responses are reproducible on the
same engine, but are other ones than TorchEngine's.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import torch
from lmdeploy.messages import GenerationConfig
from torch import Tensor

from services.common.diffusion.config import DecodingConfig, UnmaskingStrategy
from services.common.diffusion.randomness import response_keys
from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel
from services.common.model.state import check_state, export_state
from services.common.parity import DenoisingPath
from services.common.trajectory import FinishReason, Float32s
from services.rollout.engines.base import Completion, GenerationRequest
from services.rollout.engines.fitting import require_fits
from services.rollout.engines.lmdeploy_trace import Trace, Tracer

STEP_S: Final = 0.05
"""How long one step() lets LMDeploy decode when nothing finishes."""
HOTTEST: Final = 2.0
"""LMDeploy refuses a higher temperature."""
STALL_S: Final = 120.0
"""Without any forward for so long the engine counts as failed."""
T = TypeVar("T")


class Backend(Protocol):
    """The part of LMDeploy that needs a GPU."""

    tracer: Tracer
    rule: Any
    """LMDeploy's own DLLMConfig, read by every forward."""

    async def generate(self, session_id: int, prompt_ids: list[int], config: GenerationConfig) -> None:
        """Decode one response to its end; raises PlatformError("internal") when LMDeploy gives up."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the model's weights in place."""

    async def sleep(self) -> None:
        """Give weights and cache back to the device."""

    async def wake(self) -> None:
        """Take them again; the weights are those from before."""

    async def close(self) -> None:
        """Stop LMDeploy and free the device."""


class LMDeployEngine:
    """RolloutEngine on LMDeploy. One thread at a time."""

    def __init__(self, backend: Backend, skeleton: LoadedModel, *, max_sequence_tokens: int) -> None:
        """`skeleton` may be on the meta device: only names, shapes and ids are read."""
        self._backend, self._skeleton = backend, skeleton
        self._max_tokens = -(-max_sequence_tokens // skeleton.block_size) * skeleton.block_size
        self._banned = torch.nonzero(~skeleton.sampleable)[:, 0].tolist()
        self._loop = asyncio.new_event_loop()
        self._sessions = itertools.count(1)
        self._queue: deque[GenerationRequest] = deque()
        self._running: dict[asyncio.Task[None], tuple[int, GenerationRequest]] = {}
        self._progress = (0, time.monotonic())
        self.busy_s = 0.0
        self.generated_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether a request is queued or being decoded."""
        return bool(self._queue or self._running)

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queue requests; see RolloutEngine."""
        for request in requests:
            require_fits(request, self._skeleton, self._max_tokens)
            _require_expressible(request)
        self._queue.extend(requests)

    def step(self) -> list[Completion]:
        """Let LMDeploy decode until a response is finished, or for a moment; see RolloutEngine."""
        began = time.perf_counter()
        finished = self._loop.run_until_complete(self._advance())
        self.busy_s += time.perf_counter() - began
        return finished

    def replay(self, paths: Sequence[DenoisingPath]) -> list[Float32s]:
        """LMDeploy cannot be given a path; raises PlatformError("invalid_request")."""
        raise PlatformError(
            "invalid_request",
            f"{len(paths)} denoising paths were to be replayed; LMDeploy cannot follow a given path.",
            hint="Replay them on the engine torch.",
        )

    def abort_all(self) -> None:
        """Forget everything queued and in flight."""
        self._queue.clear()
        for task in self._running:
            task.cancel()
        if self._running:
            self._loop.run_until_complete(asyncio.wait(self._running, timeout=STALL_S))
        for session_id, _ in self._running.values():
            self._backend.tracer.forget(session_id)
        self._running.clear()

    def close(self) -> None:
        """Stop LMDeploy; see RolloutEngine."""
        self.abort_all()
        self._within(self._backend.close(), STALL_S, "closing")
        self._loop.close()

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the weights in place; see RolloutEngine."""
        self._require_idle("Weights were to be replaced")
        check_state(export_state(self._skeleton.model), tensors)
        self._backend.load(tensors)

    def sleep(self, timeout_s: float) -> None:
        """Give the device's memory back; raises PlatformError "busy" while there is work, or "deadline_exceeded"."""
        self._require_idle("The engine was to sleep")
        self._within(self._backend.sleep(), timeout_s, "sleeping")

    def wake(self, timeout_s: float) -> None:
        """Decode again after sleep(); raises PlatformError("deadline_exceeded")."""
        self._within(self._backend.wake(), timeout_s, "waking")

    def _require_idle(self, attempt: str) -> None:
        if self.has_work:
            raise PlatformError(
                "busy",
                f"{attempt} while responses are being decoded; each response has one weight version.",
                hint="Finish or abort them first.",
            )

    def _within(self, work: Coroutine[Any, Any, T], timeout_s: float, what: str) -> T:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, timeout_s))
        except TimeoutError:
            raise PlatformError("deadline_exceeded", f"LMDeploy took more than {timeout_s:.0f} s for {what}.") from None

    async def _advance(self) -> list[Completion]:
        self._admit()
        if not self._running:
            return []
        done, _ = await asyncio.wait(self._running, timeout=STEP_S, return_when=asyncio.FIRST_COMPLETED)
        self._require_progress()
        return [self._completed(task) for task in done]

    def _admit(self) -> None:
        """Start what may run under the rule in force; change the rule when nothing runs."""
        while self._queue:
            config = self._queue[0].decoding
            if self._running and not self._is_in_force(config):
                return
            self._enforce(config)
            request, session_id = self._queue.popleft(), next(self._sessions)
            work = self._backend.generate(session_id, request.prompt_ids.tolist(), self._settings(request))
            self._progress = (-1, time.monotonic())
            self._running[self._loop.create_task(work)] = (session_id, request)

    def _is_in_force(self, config: DecodingConfig) -> bool:
        rule = self._backend.rule
        return self._backend.tracer.selection is config.selection and (
            (rule.unmasking_strategy, rule.confidence_threshold, rule.denoising_steps)
            == (_strategy(config, rule), config.confidence_threshold, config.denoising_steps)
        )

    def _enforce(self, config: DecodingConfig) -> None:
        rule = self._backend.rule
        self._backend.tracer.selection = config.selection
        rule.unmasking_strategy = _strategy(config, rule)
        rule.confidence_threshold, rule.denoising_steps = config.confidence_threshold, config.denoising_steps

    def _settings(self, request: GenerationRequest) -> GenerationConfig:
        config = request.decoding
        key = response_keys([request.seed], [request.ledger_position], [request.response_index])
        greedy = config.temperature == 0
        return GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            do_sample=not greedy,
            temperature=1.0 if greedy else config.temperature,
            top_k=1 if greedy else config.top_k,
            top_p=1.0 if greedy else config.top_p,
            random_seed=int(key) & 0xFFFFFFFF,
            stop_token_ids=list(config.stop_token_ids),
            bad_token_ids=self._banned,
        )

    def _completed(self, task: "asyncio.Task[None]") -> Completion:
        session_id, request = self._running.pop(task)
        task.result()
        trace = self._backend.tracer.take(session_id, len(request.prompt_ids))
        self.generated_tokens += len(trace.token_ids)
        return _completion(request, trace)

    def _require_progress(self) -> None:
        """LMDeploy's loop may die without ending the requests that wait for it."""
        forwards = sum(recording.num_forwards for recording in self._backend.tracer.recordings.values())
        if forwards != self._progress[0]:
            self._progress = (forwards, time.monotonic())
        elif time.monotonic() - self._progress[1] > STALL_S:
            raise PlatformError("internal", f"LMDeploy made no forward for {STALL_S:.0f} s; its log says why.")


def _strategy(config: DecodingConfig, rule: Any) -> Any:
    """The rule under LMDeploy's name."""
    return type(rule.unmasking_strategy).from_str(config.unmasking_strategy.value)


def _require_expressible(request: GenerationRequest) -> None:
    """Refuse what LMDeploy has no setting for."""
    if request.decoding.unmasking_strategy is UnmaskingStrategy.ENTROPY_BOUNDED:
        raise PlatformError(
            "invalid_request",
            f"Request {request.request_id} wants the rule entropy_bounded, which LMDeploy does not have.",
            hint="Use low_confidence_dynamic, low_confidence_static or sequential, or the engine torch.",
        )

    if request.decoding.temperature > HOTTEST:
        raise PlatformError(
            "invalid_request",
            f"Request {request.request_id} wants temperature {request.decoding.temperature}; LMDeploy takes at most "
            f"{HOTTEST:g}.",
            hint="Lower it, or use the engine torch.",
        )


def _completion(request: GenerationRequest, trace: Trace) -> Completion:
    """The trace under its request; where it ends for the reader is decided here, not by LMDeploy."""
    stops = np.flatnonzero(np.isin(trace.token_ids, request.decoding.stop_token_ids))
    return Completion(
        request_id=request.request_id,
        token_ids=trace.token_ids,
        unmask_step=trace.unmask_step,
        logprobs=trace.logprobs,
        confidences=trace.confidences,
        visible_len=int(stops[0]) + 1 if len(stops) else len(trace.token_ids),
        finish_reason=FinishReason.STOP if len(stops) else FinishReason.LENGTH,
        num_forwards=trace.num_forwards,
    )
