"""RolloutEngine on LMDeploy, for GPUs.

LMDeploy has one decoding rule per engine, so requests with another rule wait until those in flight
are finished. Its random numbers are keyed by a 32-bit seed that is derived from the key of the
response, so responses are reproducible with this engine, but differ from those of TorchEngine.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
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
from services.common.trajectory import NO_CANDIDATES, FinishReason, Float32s, Response
from services.rollout.engines.base import GenerationRequest
from services.rollout.engines.fitting import require_awake, require_fits, require_idle
from services.rollout.engines.lmdeploy_trace import Tracer
from services.rollout.engines.replay import replay_request

STEP_S: Final = 0.05
"""Maximum time of one step()."""
MAX_TEMPERATURE: Final = 2.0
"""LMDeploy rejects higher temperatures."""
STALL_S: Final = 120.0
"""Time without a forward after which the engine has failed."""
REPLAY_RULE: Final = {
    "unmasking_strategy": UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC,
    "confidence_threshold": 1.0,
}
"""Rule of replays, in which the tokens that the path commits next have confidence 1, all others 0."""
T = TypeVar("T")


class Backend(Protocol):
    """The part of LMDeploy that needs a GPU."""

    tracer: Tracer

    @property
    def rule(self) -> Any:
        """DLLMConfig of LMDeploy, which every forward reads."""

    async def generate(
        self, session_id: int, prompt_ids: list[int], config: GenerationConfig
    ) -> None:
        """Decode one response; raises PlatformError("internal") if LMDeploy fails or is aborted."""

    async def abort(self, session_id: int) -> None:
        """Abort a response."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the weights in place."""

    async def sleep(self) -> None:
        """Free weights and cache; the weights are lost."""

    async def wake(self) -> None:
        """Allocate the weights again; they are undefined until load()."""

    async def open_cache(self) -> None:
        """Allocate the cache again, after load()."""

    async def close(self) -> None:
        """Stop LMDeploy and free the device."""


class LMDeployEngine:
    """RolloutEngine on LMDeploy. One thread at a time."""

    def __init__(
        self, backend: Backend, skeleton: LoadedModel, *, max_sequence_tokens: int
    ) -> None:
        """`skeleton` may be on the meta device, since only names, shapes and ids are used."""
        self._backend, self._skeleton = backend, skeleton
        self._max_tokens = -(-max_sequence_tokens // skeleton.block_size) * skeleton.block_size
        # The mask id and the padding of the embedding are never sampled; LMDeploy takes them as a list.
        self._banned = torch.nonzero(~skeleton.sampleable)[:, 0].tolist()
        self._loop = asyncio.new_event_loop()
        self._sessions = itertools.count(1)
        self._queue: deque[GenerationRequest] = deque()
        self._running: dict[asyncio.Task[None], tuple[int, GenerationRequest]] = {}
        self._progress = (0, time.monotonic())
        self._asleep = False
        self.busy_s = 0.0
        self.generated_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether a request is queued or being decoded."""
        return bool(self._queue or self._running)

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queue requests; see RolloutEngine."""
        require_awake(self._asleep)
        for request in requests:
            require_fits(request, self._skeleton, self._max_tokens)
            _require_supported(request)
        self._queue.extend(requests)

    def step(self) -> dict[str, Response]:
        """Decode until a response is finished, at most STEP_S; see RolloutEngine."""
        began = time.perf_counter()
        finished = self._run(self._advance())
        self.busy_s += time.perf_counter() - began
        return finished

    def replay(self, paths: Sequence[DenoisingPath]) -> list[Float32s]:
        """Log-probabilities of given responses; see RolloutEngine. Raises "busy" while there is
        work.
        """
        require_idle(self.has_work, "replay denoising paths")
        require_awake(self._asleep)
        requests = [replay_request(self._skeleton, path, slot) for slot, path in enumerate(paths)]
        for request in requests:
            require_fits(request, self._skeleton, self._max_tokens)
        began, tracer = time.perf_counter(), self._backend.tracer
        self._set_rule(requests[0].decoding.model_copy(update=REPLAY_RULE))
        # Not strict, because the session ids are an endless counter.
        tracer.paths = dict(zip(self._sessions, paths, strict=False))
        try:
            self._within(self._replay_sessions(requests), STALL_S, "replaying denoising paths")
            traces = [
                tracer.take(session, len(path.prompt_ids)) for session, path in tracer.paths.items()
            ]
            for trace, path in zip(traces, paths, strict=True):
                # The steps differ if LMDeploy could not follow the path.
                if trace.unmask_step.tolist() != path.unmask_step.tolist():
                    raise PlatformError(
                        "invalid_request",
                        "Cannot replay responses: a block has denoising steps of an earlier one, or gaps.",
                    )
            return [trace.logprobs for trace in traces]
        finally:
            tracer.paths = {}
            self.busy_s += time.perf_counter() - began

    def abort_all(self) -> None:
        """Drop all requests, queued and in flight."""
        self._queue.clear()
        if self._running:
            self._within(self._abort_running(), STALL_S, "aborting responses")

    def close(self) -> None:
        """Stop LMDeploy; see RolloutEngine."""
        self.abort_all()
        self._within(self._backend.close(), STALL_S, "closing")
        self._loop.close()

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the weights in place, and end sleep(); see RolloutEngine."""
        require_idle(self.has_work, "replace the weights")
        # Checked before anything is written, so that LMDeploy never holds a mixture of two versions.
        check_state(export_state(self._skeleton.model), tensors)
        if self._asleep:
            self._within(self._backend.wake(), STALL_S, "waking")
        self._backend.load(tensors)
        # The cache comes last, so that its memory is free for the pushed copy of the weights.
        if self._asleep:
            self._within(self._backend.open_cache(), STALL_S, "opening the cache")
        self._asleep = False

    def sleep(self) -> None:
        """Free the memory of the device until load_weights(); see RolloutEngine."""
        require_idle(self.has_work, "put the engine to sleep")
        if not self._asleep:
            self._within(self._backend.sleep(), STALL_S, "going to sleep")
        self._asleep = True

    def _within(self, work: Coroutine[Any, Any, T], timeout_s: float, what: str) -> T:
        try:
            return self._run(asyncio.wait_for(work, timeout_s))
        except TimeoutError:
            raise PlatformError(
                "deadline_exceeded", f"LMDeploy took more than {timeout_s:.0f} s for {what}."
            ) from None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        # Tasks of LMDeploy are suspended inside `with inference_mode`, which is thread-local: without
        # this block the mode would stay set in the thread of the caller.
        with torch.inference_mode():
            return self._loop.run_until_complete(work)

    async def _replay_sessions(self, requests: Sequence[GenerationRequest]) -> None:
        """Run one session for each path of the tracer."""
        sessions = zip(self._backend.tracer.paths, requests, strict=True)
        await asyncio.gather(
            *(self._generate(session_id, request) for session_id, request in sessions)
        )

    def _generate(self, session_id: int, request: GenerationRequest) -> Coroutine[Any, Any, None]:
        return self._backend.generate(
            session_id, request.prompt_ids.tolist(), self._to_config(request)
        )

    async def _abort_running(self) -> None:
        # Concurrently, because LMDeploy takes a second for each abort when its loop has died.
        aborts = (self._backend.abort(session_id) for session_id, _ in self._running.values())
        await asyncio.gather(*aborts, *self._running, return_exceptions=True)
        for session_id, _ in self._running.values():
            self._backend.tracer.forget(session_id)
        self._running.clear()

    async def _advance(self) -> dict[str, Response]:
        self._admit()
        if not self._running:
            return {}
        done, _ = await asyncio.wait(
            self._running, timeout=STEP_S, return_when=asyncio.FIRST_COMPLETED
        )
        # Checked at every step: a dead loop of LMDeploy ends neither its requests nor this wait.
        recordings = self._backend.tracer.recordings.values()
        forwards = sum(recording.num_forwards for recording in recordings)
        if forwards != self._progress[0]:
            self._progress = (forwards, time.monotonic())
        elif time.monotonic() - self._progress[1] > STALL_S:
            raise PlatformError(
                "internal", f"LMDeploy made no forward for {STALL_S:.0f} s; see its log."
            )
        return dict(map(self._finish, done))

    def _admit(self) -> None:
        """Start requests with the current rule; change the rule when no request runs."""
        while self._queue:
            config = self._queue[0].decoding
            # Strictly in order: skipping requests with another rule could starve them.
            if self._running and not self._is_current_rule(config):
                return
            self._set_rule(config)
            request, session_id = self._queue.popleft(), next(self._sessions)
            # The time without a forward starts here, not with the last forward before an idle hour.
            self._progress = (-1, time.monotonic())
            self._running[self._loop.create_task(self._generate(session_id, request))] = (
                session_id,
                request,
            )

    def _is_current_rule(self, config: DecodingConfig) -> bool:
        rule = self._backend.rule
        return self._backend.tracer.selection is config.selection and (
            (rule.unmasking_strategy, rule.confidence_threshold, rule.denoising_steps)
            == (_to_strategy(config, rule), config.confidence_threshold, config.denoising_steps)
        )

    def _set_rule(self, config: DecodingConfig) -> None:
        rule = self._backend.rule
        self._backend.tracer.selection = config.selection
        rule.unmasking_strategy = _to_strategy(config, rule)
        rule.confidence_threshold, rule.denoising_steps = (
            config.confidence_threshold,
            config.denoising_steps,
        )

    def _to_config(self, request: GenerationRequest) -> GenerationConfig:
        config = request.decoding
        key = response_keys([request.seed], [request.ledger_position], [request.response_index])
        greedy = config.temperature == 0
        return GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            do_sample=not greedy,
            # Greedy is top-1 sampling, on which the temperature has no effect.
            temperature=1.0 if greedy else config.temperature,
            top_k=1 if greedy else config.top_k,
            top_p=1.0 if greedy else config.top_p,
            # The seed of LMDeploy has 32 bits.
            random_seed=int(key) & 0xFFFFFFFF,
            stop_token_ids=list(config.stop_token_ids),
            bad_token_ids=self._banned,
        )

    def _finish(self, task: "asyncio.Task[None]") -> tuple[str, Response]:
        session_id, request = self._running.pop(task)
        task.result()
        traced = self._backend.tracer.take(session_id, len(request.prompt_ids))
        self.generated_tokens += len(traced.token_ids)
        # LMDeploy is not asked to find the first stop token, so that both engines end a response by
        # the same rule.
        stops = np.flatnonzero(np.isin(traced.token_ids, request.decoding.stop_token_ids))
        return request.request_id, replace(
            traced,
            visible_len=int(stops[0]) + 1 if len(stops) else traced.visible_len,
            finish_reason=FinishReason.STOP if len(stops) else FinishReason.LENGTH,
            rejected=traced.rejected if request.decoding.record_candidates else NO_CANDIDATES,
        )


def _to_strategy(config: DecodingConfig, rule: Any) -> Any:
    """Convert the rule to the enumeration of LMDeploy."""
    return type(rule.unmasking_strategy).from_str(config.unmasking_strategy.value)


def _require_supported(request: GenerationRequest) -> None:
    """Raise PlatformError("invalid_request") for parameters that LMDeploy does not support."""
    if request.decoding.unmasking_strategy is UnmaskingStrategy.ENTROPY_BOUNDED:
        raise PlatformError(
            "invalid_request",
            f"Request {request.request_id} uses the rule entropy_bounded, which LMDeploy does not support.",
            hint="Use low_confidence_dynamic, low_confidence_static or sequential, or the engine torch.",
        )

    if request.decoding.temperature > MAX_TEMPERATURE:
        raise PlatformError(
            "invalid_request",
            f"Request {request.request_id} has temperature {request.decoding.temperature}; the limit of LMDeploy is "
            f"{MAX_TEMPERATURE:g}.",
            hint="Lower it, or use the engine torch.",
        )
