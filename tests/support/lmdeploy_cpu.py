"""LMDeploy's own block-diffusion classes, driven on a CPU.

Sequence, sampling parameters, logits processing, unmasking, stopping and scheduling are LMDeploy's; the model is one
of ours without a cache, and the Triton kernel that draws is replaced by one that, like it, depends on seed and offset
only. Import after `lmdeploy_package.put_on_path()`.
"""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lmdeploy.messages import GenerationConfig
from lmdeploy.pytorch.config import DLLMConfig
from lmdeploy.pytorch.engine import logits_process
from lmdeploy.pytorch.engine.model_agent.agent import BatchedOutputs
from lmdeploy.pytorch.messages import MessageStatus, SamplingParam, SchedulerSession, SequenceMeta
from lmdeploy.pytorch.strategies.dllm.model_agent import DLLMExtraInputs, DLLMModelAgentStrategy
from lmdeploy.pytorch.strategies.dllm.sampling import DLLMSamplingStrategy
from lmdeploy.pytorch.strategies.dllm.sequence import DLLMSequenceStrategy
from torch import Tensor

from services.common.diffusion.randomness import uniforms
from services.common.model.forward import hidden_states
from services.common.model.index import RowIndex
from services.common.model.loading import LoadedModel
from services.common.model.state import import_state
from services.rollout.engines import lmdeploy_trace


def untouched(patch: pytest.MonkeyPatch) -> None:
    """Have everything that the shim replaces put back at the end of the test, and the kernel replaced."""
    for owner, name in lmdeploy_trace.PATCHED:
        patch.setattr(owner, name, owner.__dict__[name])
    patch.setattr(logits_process, "_multinomial_sampling", _draw)


def _draw(scores: Tensor, seeds: Tensor, offsets: Tensor, indices: Tensor) -> Tensor:
    """One token per row from sorted probabilities; the uniform number is a function of seed and offset alone."""
    numbers = uniforms(seeds, offsets[:, None], torch.zeros_like(seeds))
    cdf = scores.double().cumsum(-1)
    places = torch.searchsorted(cdf, numbers * cdf[:, -1:], right=True).clamp(max=scores.shape[1] - 1)
    return indices.gather(1, places)[:, 0]


@dataclass
class _State:
    """Where a sequence stands; what LMDeploy's scheduler would manage."""

    status: Any = MessageStatus.RUNNING

    def finish(self) -> None:
        self.status = MessageStatus.STOPPED


@dataclass
class _Seat:
    """A response in flight."""

    sequence: Any
    stopping: Any
    offsets: Tensor
    done: "asyncio.Future[None]"
    is_prefill: bool = True


@dataclass
class CpuBackend:
    """LMDeploy without a GPU; see services.rollout.engines.lmdeploy_engine.Backend."""

    loaded: LoadedModel
    tracer: Any
    rule: DLLMConfig = field(init=False)

    def __post_init__(self) -> None:
        block, mask = self.loaded.block_size, self.loaded.mask_token_id
        self.rule = DLLMConfig(block_length=block, denoising_steps=block)
        self._sampling = DLLMSamplingStrategy(0, block)
        self._agent = DLLMModelAgentStrategy(self.rule, mask)
        self._scheduler = DLLMSequenceStrategy(block, mask)
        self._ids = itertools.count()
        self._seats: list[_Seat] = []
        self._pump: asyncio.Task[None] | None = None
        self.closed = False

    async def generate(self, session_id: int, prompt_ids: list[int], config: GenerationConfig) -> None:
        seat = self._seat(session_id, prompt_ids, config)
        self._seats.append(seat)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._decode())
        try:
            await seat.done
        finally:
            if seat in self._seats:
                self._seats.remove(seat)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        import_state(self.loaded.model, tensors)

    async def sleep(self) -> None:
        pass

    async def wake(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    def _seat(self, session_id: int, prompt_ids: list[int], config: GenerationConfig) -> _Seat:
        lifecycle = SimpleNamespace(
            new_sequence_id=lambda: next(self._ids), add_sequence=lambda sequence, status: sequence.set_state(_State())
        )
        session = SchedulerSession(session_id, SequenceMeta(64, strategy=self._scheduler), lifecycle)
        sequence = session.add_sequence(np.array(prompt_ids), SamplingParam.from_gen_config(config))
        stopping = self._agent.make_stopping_criteria([sequence])
        return _Seat(sequence, stopping, torch.empty(0), asyncio.get_running_loop().create_future())

    async def _decode(self) -> None:
        await asyncio.sleep(0)
        while self._seats:
            for is_prefill in (True, False):
                batch = [seat for seat in self._seats if seat.is_prefill is is_prefill]
                if batch:
                    try:
                        with torch.inference_mode():
                            await self._forward(batch, is_prefill)
                    except Exception as error:
                        self._fail(error)
                        raise
            for seat in [each for each in self._seats if each.sequence.status is MessageStatus.STOPPED]:
                self._seats.remove(seat)
                seat.done.set_result(None)
            await asyncio.sleep(0)

    def _fail(self, error: Exception) -> None:
        """Whoever waits for a response gets the error."""
        for seat in self._seats:
            seat.done.set_exception(error)

    async def _forward(self, batch: list[_Seat], is_prefill: bool) -> None:
        block, sequences = self.loaded.block_size, [seat.sequence for seat in batch]
        sampling = self._sampling.make_sampling_inputs(sequences)
        self._continue_offsets(batch, sampling)
        processor = logits_process.FusedLogitsProcessor(sampling)
        logits, _ = await processor(torch.cat([self._logits(sequence) for sequence in sequences]))
        candidates = processor.sampling(logits)
        lengths = torch.full((len(batch),), block)
        inputs = SimpleNamespace(
            input_ids=torch.from_numpy(np.concatenate([_tokens(each)[-block:] for each in sequences]))[None],
            seq_length=lengths,
            history_lengths=torch.tensor([len(_tokens(each)) - block for each in sequences]),
            is_decoding=not is_prefill,
        )
        masks = np.concatenate([sequence.dllm_mask[-block:] for sequence in sequences])
        extra = DLLMExtraInputs(dllm_mask=torch.from_numpy(masks.copy()))
        tokens, extra = self._agent.post_sampling(inputs, logits, candidates, extra)
        stopped, stop_pos = self._stops(batch, tokens, sampling, inputs, extra)
        outputs = BatchedOutputs(
            next_token_ids=tokens,
            stopped=stopped,
            stop_pos=stop_pos,
            extra_outputs=self._agent.make_extra_outputs(extra),
        )
        self._scheduler.update_running(
            running=sequences, batched_outputs=outputs.to_cpu(), model_inputs=inputs, delta=None
        )
        for seat in batch:
            seat.is_prefill = False

    def _continue_offsets(self, batch: list[_Seat], sampling: Any) -> None:
        """LMDeploy keeps the random offsets on the device from step to step and adds one at each."""
        rows = sampling.random_offsets.view(len(batch), -1)
        for seat, fresh in zip(batch, rows, strict=True):
            seat.offsets = fresh if seat.is_prefill else seat.offsets + 1
        sampling.random_offsets = torch.cat([seat.offsets for seat in batch])

    def _logits(self, sequence: Any) -> Tensor:
        """Of the last block [B, V], by a full forward."""
        tokens = torch.from_numpy(_tokens(sequence).astype(np.int64))
        hidden = hidden_states(self.loaded.model, tokens, RowIndex.clean(len(tokens), self.loaded.block_size))
        logits: Tensor = self.loaded.model.get_output_embeddings()(hidden[-self.loaded.block_size :])
        return logits

    def _stops(
        self, batch: list[_Seat], tokens: Tensor, sampling: Any, inputs: Any, extra: Any
    ) -> tuple[Tensor, Tensor]:
        """LMDeploy's stopping rule, one sequence at a time, since a batch here changes from forward to forward."""
        results = []
        for place, seat in enumerate(batch):
            rows = slice(place * self.loaded.block_size, (place + 1) * self.loaded.block_size)
            words = None if sampling.stop_words is None else sampling.stop_words[rows]
            own = SimpleNamespace(
                history_lengths=inputs.history_lengths[place : place + 1], seq_length=inputs.seq_length[:1]
            )
            mask = DLLMExtraInputs(dllm_mask=extra.dllm_mask[rows])
            stopped, position, seat.stopping = seat.stopping.step(tokens[rows], words, inputs=own, extra_inputs=mask)
            results.append((stopped, position))
        return torch.cat([stopped for stopped, _ in results]), torch.cat([position for _, position in results])


def _tokens(sequence: Any) -> np.ndarray:
    """Everything up to the end of the current block."""
    tokens: np.ndarray = sequence.history_cache[: sequence.num_history_ids + sequence.num_token_ids]
    return tokens
