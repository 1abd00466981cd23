"""A fixed number of slots that are decoded in one forward.

Caching a block and denoising a block are the same forward: a slot whose block is complete has its
clean keys and values in the cache afterwards and moves to the next block; any other slot has some
masked positions committed. Legend: S slots, B block length, V vocabulary, n slots that denoise
under one decoding configuration.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from services.common.diffusion.config import DecodingConfig
from services.common.diffusion.randomness import uniforms
from services.common.diffusion.rules import commit_mask, confidences
from services.common.diffusion.sampling import sample_candidates, scaled_logprobs
from services.common.errors import PlatformError
from services.common.model.forward import attended_states, token_logits
from services.common.model.loading import LoadedModel
from services.common.trajectory import Response
from services.rollout.engines.base import DenoisingEvent, GenerationRequest
from services.rollout.engines.kv_cache import BlockAttend, KVCache, Prefix
from services.rollout.engines.slots import Commitments, SlotTable


class Lane:
    """Slots with their cache and their common step."""

    def __init__(
        self,
        loaded: LoadedModel,
        num_slots: int,
        max_tokens: int,
        on_step: Callable[[DenoisingEvent], None] | None,
    ) -> None:
        weight = next(loaded.model.parameters())
        self._loaded = loaded
        self._on_step = on_step
        self._cache = KVCache(
            loaded.model.config, num_slots, max_tokens, weight.dtype, weight.device
        )
        self._slots = SlotTable(
            num_slots, max_tokens, loaded.block_size, loaded.mask_token_id, weight.device
        )
        self.free_slots = list(range(num_slots))

    @property
    def has_work(self) -> bool:
        """Whether any slot is in use."""
        return len(self.free_slots) < len(self._slots.requests)

    def seat(self, requests: Sequence[GenerationRequest], prefix: Prefix | None) -> None:
        """Assign requests with the same prompt to free slots."""
        taken, self.free_slots = self.free_slots[: len(requests)], self.free_slots[len(requests) :]
        self._slots.open(taken, requests)
        if prefix is not None:
            self._cache.write_prefix(torch.tensor(taken, device=self._slots.starts.device), prefix)

    def clear(self) -> None:
        """Drop requests in flight and clear the cache."""
        used = [slot for slot, request in enumerate(self._slots.requests) if request is not None]
        self._release(used)
        self._cache.clear()

    def step(self) -> tuple[dict[str, Response], int]:
        """Run one forward; return finished responses by request id, and the number of tokens that it
        committed.
        """
        logits = self._forward()
        # A block that was complete before this forward has been cached by it; one that this step
        # completes is cached by the next forward, which sees all of its tokens.
        masked_before = self._slots.masked.clone()
        denoising = self._slots.active & masked_before.any(1)
        completed = self._slots.active & ~denoising
        self._slots.forwards += self._slots.active
        # Grouped by configuration, since sampling and unmasking take one for all of their rows.
        for config, rows in self._slots.by_config():
            chosen = rows[denoising[rows]]
            if len(chosen):
                self._denoise(config, chosen, logits[chosen])
        committed = masked_before & ~self._slots.masked
        if self._on_step is not None:
            self._report(denoising, committed)
        finished = self._finish(denoising)
        self._slots.advance(completed)
        return finished, int(committed.sum())

    def _forward(self) -> Tensor:
        """Return logits [S, B, V] of all slots.

        Free slots are included: with a constant shape, kernels sum in the same order whatever the
        load, and a response does not depend on the batch.
        """
        slots = self._slots
        attend = BlockAttend(self._cache, slots.starts, slots.block_size)
        hidden = attended_states(self._loaded.model, slots.block_tokens(), slots.positions, attend)
        return token_logits(self._loaded, hidden.flatten(0, 1)).view(*hidden.shape[:2], -1)

    def _denoise(self, config: DecodingConfig, rows: Tensor, logits: Tensor) -> None:
        """Make one denoising step of slots [n] from their logits [n, B, V]."""
        slots = self._slots
        logprobs = scaled_logprobs(config, logits)
        # NaN compares false with every threshold, so it would never commit a token, and a candidate
        # drawn from it is no id. Logits of +inf, by an overflow of the dtype or of a tiny temperature,
        # end as NaN here; the -inf of a token that must not be sampled does not. A committed position
        # may have no token that could be sampled: nothing is drawn from it.
        is_broken = ~logprobs.amax(-1).isfinite()
        if bool((is_broken & (slots.masked[rows] | ~logits.amax(-1).isneginf())).any()):
            raise PlatformError(
                "internal",
                "The model's logits are not numbers or infinite; its weights, or an overflow of its dtype, are broken.",
                hint="Load other weights or a wider dtype.",
            )
        candidates = self._candidates(config, rows, logprobs)
        confidence = confidences(config, logprobs, candidates)
        slots.record(
            Commitments(
                slots=rows,
                commit=self._commit(config, rows, confidence, logprobs),
                candidates=candidates,
                # Before top-k and top-p: the trainer's log-probabilities are not truncated either.
                logprobs=logprobs.gather(-1, candidates[..., None])[..., 0],
                confidences=confidence,
            )
        )

    def _candidates(self, config: DecodingConfig, rows: Tensor, logprobs: Tensor) -> Tensor:
        """Sample a token for each position [n, B] from log-probabilities [n, B, V]."""
        slots = self._slots
        return sample_candidates(
            config,
            logprobs,
            # Keyed by position and step, not by slot: a response is the same in any slot.
            uniforms(slots.keys[rows], slots.positions[rows], slots.steps[rows] + 1),
        )

    def _commit(
        self, config: DecodingConfig, rows: Tensor, confidence: Tensor, logprobs: Tensor
    ) -> Tensor:
        """Select the positions to commit, bool [n, B]."""
        return commit_mask(config, self._slots.masked[rows], confidence, logprobs)

    def _finish(self, denoising: Tensor) -> dict[str, Response]:
        """Return responses whose block is complete and has a stop token or exhausts the budget.

        Their slots become free. A stop token ends a response only when its block is complete,
        because earlier positions may still be masked.
        """
        slots = self._slots
        stops = self._stop_offsets()
        stopped = stops < slots.block_size
        exhausted = slots.starts + slots.block_size >= slots.ends
        done = denoising & ~slots.masked.any(1) & (stopped | exhausted)
        rows: list[int] = done.nonzero()[:, 0].tolist()
        visible = (slots.starts + stops + 1 - slots.prompt_lengths).tolist()
        finished = dict(
            slots.take_response(slot, visible[slot] if stopped[slot] else None) for slot in rows
        )
        self._release(rows)
        return finished

    def _stop_offsets(self) -> Tensor:
        """Return the index of the first stop token of each block [S], B without one.

        Stop tokens of the prompt, with which the first block may start, do not count.
        """
        slots = self._slots
        tokens, found = slots.block_tokens(), torch.zeros_like(slots.masked)
        for config, rows in slots.by_config():
            found[rows] = torch.isin(
                tokens[rows], torch.tensor(config.stop_token_ids, device=tokens.device)
            )
        # Chat templates contain end-of-turn tokens, so a prompt has stop tokens of its own.
        found &= slots.positions >= slots.prompt_lengths[:, None]
        offsets = torch.arange(slots.block_size, device=tokens.device)
        return torch.where(found, offsets, slots.block_size).amin(1)

    def _release(self, rows: list[int]) -> None:
        """Free slots; the lowest one is used first."""
        if rows:
            self._slots.close(rows)
            self.free_slots = sorted(self.free_slots + rows)

    def _report(self, denoising: Tensor, committed: Tensor) -> None:
        """Report the denoising step of every response."""
        if self._on_step is None:
            return
        slots = self._slots
        for slot in denoising.nonzero()[:, 0].tolist():
            request = slots.requests[slot]
            start, first = int(slots.prompt_lengths[slot]), int(slots.starts[slot])
            if request is None:
                raise RuntimeError(f"Slot {slot} was denoised without a request.")
            tokens = (
                slots.token_ids[slot, start : first + slots.block_size]
                .cpu()
                .numpy()
                .astype(np.int32)
            )
            offsets = committed[slot].nonzero()[:, 0].cpu().numpy().astype(np.int32) + (
                first - start
            )
            self._on_step(
                DenoisingEvent(
                    request_id=request.request_id,
                    step=int(slots.steps[slot]),
                    token_ids=tokens,
                    committed=offsets,
                )
            )
