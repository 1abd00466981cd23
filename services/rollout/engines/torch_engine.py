"""The engine that runs on every device of torch.

A response depends on weights, prompt and seed, never on the rest of the batch: prompts are prefilled
one at a time, the shape of a decoding forward does not change with the load, and random numbers are
keyed by the response. (A mixture of experts gathers the tokens of each expert from all responses, so
there the batch changes rounding errors.)
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from services.common.model.attention import packed_attention
from services.common.model.forward import attended_states
from services.common.model.index import RowIndex
from services.common.model.loading import LoadedModel
from services.common.model.state import drop_weights, import_state
from services.common.parity import DenoisingPath
from services.common.trajectory import Float32s, Response
from services.rollout.engines.base import DenoisingEvent, GenerationRequest
from services.rollout.engines.fitting import (
    require_awake,
    require_fits,
    require_idle,
    require_known_ids,
)
from services.rollout.engines.kv_cache import Prefix, cache_dtype, slot_bytes
from services.rollout.engines.lane import Lane
from services.rollout.engines.replay import ReplayLane, replay_request

LANE_SLOTS: Final = 128
"""Maximum number of slots of a forward. A larger batch is decoded in several forwards; lanes without
work are skipped.
"""
HOST_CACHE_BYTES: Final = 2 * 2**30
"""Memory of the KV cache of a default batch on a CPU."""
DEVICE_CACHE_SHARE: Final = 0.4
"""Share of the memory of a GPU for the KV cache of a default batch."""


class TorchEngine:
    """RolloutEngine on torch. One thread at a time."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_sequence_tokens: int,
        max_batch_size: int | None = None,
        on_step: Callable[[DenoisingEvent], None] | None = None,
    ) -> None:
        """`max_sequence_tokens` limits prompt + response; at least `max_batch_size` responses are
        decoded at once.

        Without a batch size there is one lane, with fewer slots if the cache would be too large.
        """
        block = loaded.block_size
        self._loaded = loaded
        self._max_tokens = -(-max_sequence_tokens // block) * block
        slots = max_batch_size or default_slots(loaded, self._max_tokens)
        self._slots, self._on_step = slots, on_step
        self._lanes = self._open_lanes()
        self._wake: Callable[[], None] | None = None
        """Allocates the memory of the weights again; None while awake."""
        self._queue: deque[GenerationRequest] = deque()
        self._waiting: Counter[bytes] = Counter()
        self._prefixes: dict[bytes, Prefix | None] = {}
        self.busy_s = 0.0
        self.generated_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether a request is queued or being decoded."""
        return bool(self._queue) or any(lane.has_work for lane in self._lanes)

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queue requests; see RolloutEngine."""
        require_awake(self._wake is not None)
        for request in requests:
            require_fits(request, self._loaded, self._max_tokens)
        self._queue.extend(requests)
        # Counted per prompt, so that a prefill is kept until the last response of a group has started.
        self._waiting.update(request.prompt_ids.tobytes() for request in requests)

    def step(self) -> dict[str, Response]:
        """One forward for everything in flight; see RolloutEngine."""
        began = time.perf_counter()
        finished: dict[str, Response] = {}
        with torch.inference_mode():
            for lane in self._lanes:
                self._seat(lane)
                if lane.has_work:
                    responses, tokens = lane.step()
                    finished |= responses
                    self.generated_tokens += tokens
        self.busy_s += time.perf_counter() - began
        return finished

    def replay(self, paths: Sequence[DenoisingPath]) -> list[Float32s]:
        """Log-probabilities of given responses; see RolloutEngine."""
        require_awake(self._wake is not None)
        began = time.perf_counter()
        with torch.inference_mode():
            # A lane of its own, so that a probe can be replayed while responses are in flight.
            lane = ReplayLane(self._loaded, paths)
            for slot, path in enumerate(paths):
                request = replay_request(self._loaded, path, slot)
                require_fits(request, self._loaded, self._max_tokens)
                require_known_ids(path.token_ids, self._loaded)
                lane.seat([request], self._prefill(request))
            logprobs = lane.run()
        self.busy_s += time.perf_counter() - began
        return logprobs

    def abort_all(self) -> None:
        """Drop all requests, queued and in flight."""
        self._queue.clear()
        self._waiting.clear()
        self._prefixes.clear()
        with torch.inference_mode():
            for lane in self._lanes:
                lane.clear()

    def close(self) -> None:
        """Drop all requests; there are no other resources. See RolloutEngine."""
        self.abort_all()

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the weights in place, and end sleep(); see RolloutEngine."""
        require_idle(self.has_work, "replace the weights")
        # Cached prefills belong to the old weights.
        self.abort_all()
        if self._wake is not None:
            self._wake()
        import_state(self._loaded.model, tensors)
        if self._wake is not None:
            self._lanes, self._wake = self._open_lanes(), None

    def sleep(self) -> None:
        """Free the memory of weights and cache until load_weights(); see RolloutEngine."""
        require_idle(self.has_work, "put the engine to sleep")
        if self._wake is None:
            self._wake = drop_weights(self._loaded.model)
            # The caches are freed, too, and allocated again with the weights.
            self._lanes = []

    def _open_lanes(self) -> list[Lane]:
        # Lanes of equal size: with a remainder lane, the same request would have another shape and
        # other rounding errors there.
        count = -(-self._slots // LANE_SLOTS)
        size = -(-self._slots // count)
        return [Lane(self._loaded, size, self._max_tokens, self._on_step) for _ in range(count)]

    def _seat(self, lane: Lane) -> None:
        """Fill free slots of the lane from the queue; requests with one prompt share its prefill."""
        while self._queue and lane.free_slots:
            prompt = self._queue[0].prompt_ids.tobytes()
            # Responses of a group are queued together, so the head of the queue shares one prefill.
            group: list[GenerationRequest] = []
            while (
                self._queue
                and len(group) < len(lane.free_slots)
                and self._queue[0].prompt_ids.tobytes() == prompt
            ):
                group.append(self._queue.popleft())
            # Kept until no request waits for it, as a group may be seated over several lanes.
            if prompt not in self._prefixes:
                self._prefixes[prompt] = self._prefill(group[0])
            lane.seat(group, self._prefixes[prompt])
            self._waiting[prompt] -= len(group)
            if self._waiting[prompt] == 0:
                del self._waiting[prompt], self._prefixes[prompt]

    def _prefill(self, request: GenerationRequest) -> Prefix | None:
        """Run the whole blocks of the prompt; None without any.

        The batch size is 1, so that the result depends on the prompt only.
        """
        block = self._loaded.block_size
        length = len(request.prompt_ids) // block * block
        if length == 0:
            return None
        device = self._loaded.sampleable.device
        index = RowIndex.clean(length, block, device)
        tokens = torch.from_numpy(request.prompt_ids[:length]).to(device, torch.int64)
        prefix = Prefix(packed_attention(index))
        attended_states(self._loaded.model, tokens[None], index.position[None], prefix)
        return prefix


def default_slots(loaded: LoadedModel, max_tokens: int) -> int:
    """Return the default number of slots, which depends on model and device only."""
    weight = next(loaded.model.parameters())
    budget = float(HOST_CACHE_BYTES)
    if weight.is_cuda:
        budget = DEVICE_CACHE_SHARE * torch.cuda.get_device_properties(weight.device).total_memory
    each = slot_bytes(loaded.model.config, max_tokens, cache_dtype(weight.dtype, weight.device))
    return max(1, min(LANE_SLOTS, int(budget // each)))
