"""Record positions, steps and log-probabilities of block-diffusion responses inside LMDeploy.

The module replaces methods and one constant of LMDeploy 0.18.0; docs/lmdeploy.md describes the defect
that each replacement fixes:

* sampling parameters are in the order of the rows of the logits, and positions of a block are
  sampled independently;
* confidences are computed in fp32, of the sampled token or of the most likely one;
* every forward passes its log-probabilities to the scheduler, where committed tokens are recorded
  per session;
* a stop token in the last block of the prompt ends the response;
* a session can replay a given path, which returns the log-probabilities of that response;
* the mask id is that of the checkpoint.

Other versions and other signatures are rejected. Legend: N sequences, B block length, V
vocabulary.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from lmdeploy.pytorch import consts
from lmdeploy.pytorch.configurations.sdar import SDARModelConfigBuilder
from lmdeploy.pytorch.engine.logits_process import FusedLogitsProcessor
from lmdeploy.pytorch.messages import MessageStatus
from lmdeploy.pytorch.strategies.dllm.model_agent import DLLMExtraOutputs, DLLMModelAgentStrategy
from lmdeploy.pytorch.strategies.dllm.sampling import DLLMSamplingStrategy
from lmdeploy.pytorch.strategies.dllm.sequence import DLLMSequenceStrategy
from lmdeploy.pytorch.strategies.dllm.unmasking import UnmaskingProcessor
from lmdeploy.version import __version__
from numpy.typing import NDArray
from torch import Tensor

from services.common.diffusion.config import Selection
from services.common.errors import PlatformError
from services.common.parity import DenoisingPath
from services.common.trajectory import Candidates, FinishReason, Response

SUPPORTED_VERSION: Final = "0.18.0"
"""The release whose private names this module uses."""
PATCHED: Final[Mapping[tuple[type, str], tuple[str, ...]]] = {
    (DLLMSamplingStrategy, "make_sampling_inputs"): ("self", "seqs"),
    (DLLMModelAgentStrategy, "post_sampling"): ("self", "inputs", "logits", "next_token_ids", "extra_inputs"),
    (DLLMModelAgentStrategy, "make_extra_outputs"): ("self", "extra_inputs"),
    (DLLMModelAgentStrategy, "make_stopping_criteria"): ("self", "seqs"),
    (FusedLogitsProcessor, "sampling"): ("self", "logits"),
    (UnmaskingProcessor, "_get_scores"): ("self", "logits", "token_ids"),
    (DLLMSequenceStrategy, "update_running"): (
        "self", "running", "batched_outputs", "model_inputs", "delta", "kwargs",
    ),
    (SDARModelConfigBuilder, "build"): ("hf_config", "model_path", "kwargs"),
}  # fmt: skip
"""Replaced methods and their expected signatures."""
POSITION_STRIDE: Final = 1 << 20
"""Distance of the random offsets of neighbouring positions; larger than the number of forwards."""
ROWS_PER_CHUNK: Final = 64
"""Rows whose logits are converted to fp32 at a time (39 MB for the vocabulary of SDAR)."""


@dataclass
class TracedOutputs(DLLMExtraOutputs):  # type: ignore[misc]
    """Outputs of a forward for the scheduler: the mask [N B] of LMDeploy, and two more rows."""

    logprobs: Tensor
    """fp32 [N B] of the sampled tokens."""
    confidences: Tensor
    """fp32 [N B]"""


@dataclass
class _ResponseTrace:
    """A response in flight, by position in the sequence."""

    committed: dict[int, tuple[int, int, float, float]] = field(default_factory=dict)
    """position → token, step, log-probability, confidence"""
    rejected: list[tuple[int, int, int, float]] = field(default_factory=list)
    """position, step, token, log-probability of rejected candidates"""
    num_steps: int = 0
    num_forwards: int = 0


@dataclass
class Tracer:
    """Recordings of the sessions in flight, by session id."""

    selection: Selection = Selection.MAX
    """Definition of a confidence; may change only while no response is decoded."""
    paths: Mapping[int, DenoisingPath] = field(default_factory=dict)
    """Paths to replay, by session id; all sessions in flight have one, or none has."""
    sessions: list[int] = field(default_factory=list)
    """Sessions of the current forward, in the order of its rows."""
    recordings: dict[int, _ResponseTrace] = field(default_factory=dict)

    def take(self, session_id: int, prompt_length: int) -> Response:
        """Remove and return the response of a session: whole blocks, without the prompt.

        `visible_len` and `finish_reason` are those of a response without a stop token. Raises
        PlatformError("internal") unless every position after the prompt was committed.
        """
        recording = self.recordings.pop(session_id, _ResponseTrace())
        positions = sorted(recording.committed)
        if not positions or positions != list(range(prompt_length, prompt_length + len(positions))):
            raise PlatformError(
                "internal",
                f"LMDeploy finished session {session_id}, but its trace has {len(positions)} positions that do not "
                f"follow the prompt, which ends at {prompt_length}.",
                hint="Is the trace shim installed before the engine is built?",
            )
        tokens, steps, logprobs, confidences = zip(
            *(recording.committed[at] for at in positions), strict=True
        )
        return Response(
            token_ids=np.array(tokens, np.int32),
            unmask_step=np.array(steps, np.int32),
            logprobs=np.array(logprobs, np.float32),
            confidences=np.array(confidences, np.float32),
            visible_len=len(tokens),
            finish_reason=FinishReason.LENGTH,
            num_forwards=recording.num_forwards,
            rejected=_candidates(recording, prompt_length),
        )

    def forget(self, session_id: int) -> None:
        """Drop the recording of an aborted session."""
        self.recordings.pop(session_id, None)

    def record(
        self,
        sequence: Any,
        tokens: NDArray[np.int64],
        mask: NDArray[np.uint8],
        scores: NDArray[Any],
    ) -> None:
        """Record the difference between the last block of a sequence and the result of a forward.

        `tokens` and `mask` are [B]; `scores` [2, B] are log-probabilities and confidences.
        """
        start = sequence.num_history_ids + sequence.num_token_ids - len(mask)
        before = sequence.history_dllm_mask[start : start + len(mask)]
        masked = before == consts.DLLM_MASKED
        recording = self.recordings.setdefault(sequence.session_id, _ResponseTrace())
        # No engine counts forwards that only prefill the cache.
        recording.num_forwards += bool(masked.any() or recording.num_steps)
        offsets = np.flatnonzero(masked & (mask != consts.DLLM_MASKED))
        recording.num_steps += bool(len(offsets))
        for at in offsets:
            recording.committed[start + int(at)] = (
                int(tokens[at]), recording.num_steps, float(scores[0, at]), float(scores[1, at])
            )  # fmt: skip
        for at in np.flatnonzero(masked & (mask == consts.DLLM_MASKED)):
            recording.rejected.append(
                (start + int(at), recording.num_steps, int(tokens[at]), float(scores[0, at]))
            )


def _candidates(recording: _ResponseTrace, prompt_length: int) -> Candidates:
    """Return the rejected candidates, sorted by position and step."""
    columns = np.array(sorted(recording.rejected), np.float64).reshape(-1, 4)
    return Candidates(
        position=columns[:, 0].astype(np.int32) - prompt_length,
        step=columns[:, 1].astype(np.int32),
        token_ids=columns[:, 2].astype(np.int32),
        logprobs=columns[:, 3].astype(np.float32),
    )


def install(mask_token_id: int) -> Tracer:
    """Replace the methods of LMDeploy, once, before an engine is created.

    Raises PlatformError("preflight_failed") for an unknown version of LMDeploy.
    """
    require_known()
    tracer = Tracer()
    _patch(DLLMSamplingStrategy, "make_sampling_inputs", _patch_sampling_inputs)
    _patch(
        DLLMModelAgentStrategy,
        "post_sampling",
        lambda original: _patch_post_sampling(original, tracer),
    )
    _patch(DLLMModelAgentStrategy, "make_extra_outputs", _patch_extra_outputs)
    _patch(DLLMModelAgentStrategy, "make_stopping_criteria", _patch_stopping_criteria)
    _patch(
        FusedLogitsProcessor, "sampling", lambda original: _patch_logits_sampling(original, tracer)
    )
    _patch(
        UnmaskingProcessor,
        "_get_scores",
        lambda original: lambda self, logits, token_ids: self.confidences,
    )
    _patch(
        DLLMSequenceStrategy,
        "update_running",
        lambda original: _patch_update_running(original, tracer),
    )
    _patch_mask(mask_token_id)
    return tracer


def require_known(version: str = __version__) -> None:
    """Raise PlatformError("preflight_failed") for an unknown version or unknown signatures."""
    wrong = [
        f"{owner.__name__}.{name}"
        for (owner, name), expected in PATCHED.items()
        if tuple(inspect.signature(getattr(owner, name, lambda: None)).parameters) != expected
    ]
    if version != SUPPORTED_VERSION or wrong:
        changed = f" with other signatures of {', '.join(wrong)}" if wrong else ""
        raise PlatformError(
            "preflight_failed",
            f"LMDeploy {version}{changed} cannot be traced; supported is {SUPPORTED_VERSION}.",
            hint="Install the version in lmdeploy-constraints.txt.",
        )


def _patch(
    owner: type, name: str, replace: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Replace a method of a class; a second call replaces the original again."""
    # Engines of tests are opened several times in a process; patches must not be stacked.
    current = getattr(owner, name)
    original = getattr(current, "replaced", current)
    replacement = replace(original)
    replacement.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    replacement.replaced = original  # type: ignore[attr-defined]
    setattr(owner, name, replacement)


def _patch_mask(mask_token_id: int) -> None:
    """Use the mask id of the checkpoint; LMDeploy assumes 151669 for every SDAR model."""
    current = SDARModelConfigBuilder.build
    original = getattr(current.__func__, "replaced", current)

    def build(
        cls: type[Any], /, hf_config: Any, model_path: str | None = None, **kwargs: Any
    ) -> Any:
        config = original(hf_config, model_path, **kwargs)
        config.dllm_mask_token = mask_token_id
        return config

    build.replaced = original  # type: ignore[attr-defined]
    SDARModelConfigBuilder.build = classmethod(build)


def _patch_sampling_inputs(original: Callable[..., Any]) -> Callable[..., Any]:
    """make_sampling_inputs: parameters in the order s0 s0 … s1 s1 …, and a random offset per row."""

    def make_sampling_inputs(self: Any, seqs: Any) -> Any:
        inputs, block = original(self, seqs), self.dllm_block_length
        for name, value in vars(inputs).items():
            if isinstance(value, Tensor) and value.dim() == 1:
                setattr(inputs, name, value.view(block, -1).T.reshape(-1))
        # With equal offsets, all positions of a block would draw the same random number.
        places = torch.arange(len(inputs.random_offsets)) % block
        inputs.random_offsets = inputs.random_offsets + places * POSITION_STRIDE
        return inputs

    return make_sampling_inputs


def _patch_stopping_criteria(original: Callable[..., Any]) -> Callable[..., Any]:
    """make_stopping_criteria: stop tokens count from the end of the prompt, not of its last block."""

    def make_stopping_criteria(self: Any, seqs: Any) -> Any:
        criteria = original(self, seqs)
        criteria.output_start_pos = torch.tensor([sequence.input_end_pos for sequence in seqs])
        return criteria

    return make_stopping_criteria


def _patch_logits_sampling(original: Callable[..., Any], tracer: Tracer) -> Callable[..., Any]:
    """FusedLogitsProcessor.sampling: remember the sessions of the rows, which later calls do not have."""

    def sampling(self: Any, logits: Tensor) -> Any:
        tracer.sessions = [each["session_id"] for each in self.sampling_inputs.session_ctx]
        return original(self, logits)

    return sampling


def _patch_post_sampling(original: Callable[..., Any], tracer: Tracer) -> Callable[..., Any]:
    """post_sampling: score the candidates [N B] before the unmasking rule selects among them."""

    def post_sampling(
        self: Any, inputs: Any, logits: Tensor, next_token_ids: Tensor, extra_inputs: Any
    ) -> Any:
        if tracer.paths:
            next_token_ids, due = _next_of_paths(tracer, inputs, extra_inputs.dllm_mask)
        logprobs, confidences = score(logits, next_token_ids, tracer.selection)
        # With threshold 1, the rule commits exactly the tokens that are due.
        if tracer.paths:
            confidences = due.to(confidences)
        self.unmasking_processor.confidences = confidences
        tokens, extra_inputs = original(self, inputs, logits, next_token_ids, extra_inputs)
        extra_inputs.logprobs, extra_inputs.confidences = logprobs, confidences
        return tokens, extra_inputs

    return post_sampling


def _next_of_paths(tracer: Tracer, inputs: Any, dllm_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens [N B] of the current blocks of the paths, and which are committed next."""
    ends = (inputs.history_lengths + inputs.seq_length).tolist()
    block = len(dllm_mask) // len(ends)
    blocks = []
    for session, end in zip(tracer.sessions, ends, strict=True):
        path = tracer.paths[session]
        # The first block may start with prompt tokens. They have step 0 and are never masked.
        path_tokens = np.concatenate([path.prompt_ids, path.token_ids])
        path_steps = np.concatenate([np.zeros_like(path.prompt_ids), path.unmask_step])
        blocks.append(np.stack([path_tokens, path_steps])[:, end - block : end])
    tokens, steps = torch.from_numpy(np.stack(blocks, axis=1)).to(dllm_mask.device, torch.int64)
    steps = steps.masked_fill(
        dllm_mask.view_as(steps) != consts.DLLM_MASKED, torch.iinfo(torch.int64).max
    )
    return tokens.flatten(), (steps == steps.amin(1, keepdim=True)).flatten()


def score(logits: Tensor, token_ids: Tensor, selection: Selection) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of tokens and confidences, fp32 [rows], from logits [rows, V]."""
    chunks = []
    for start in range(0, len(logits), ROWS_PER_CHUNK):
        rows, tokens = (
            logits[start : start + ROWS_PER_CHUNK],
            token_ids[start : start + ROWS_PER_CHUNK],
        )
        # fp32, because the log-probabilities are compared with those of the trainer.
        wide = rows.float()
        total = wide.logsumexp(-1)
        chosen = wide.gather(-1, tokens[:, None])[:, 0] - total
        confidence = chosen if selection is Selection.SAMPLED else wide.amax(-1) - total
        chunks.append(torch.stack((chosen, confidence.exp())))
    logprobs, confidences = torch.cat(chunks, dim=1)
    return logprobs, confidences


def _patch_extra_outputs(original: Callable[..., Any]) -> Callable[..., Any]:
    """make_extra_outputs: copy the two rows to the host with the mask."""

    def make_extra_outputs(self: Any, extra_inputs: Any) -> TracedOutputs:
        return TracedOutputs(
            dllm_mask=extra_inputs.dllm_mask,
            logprobs=extra_inputs.logprobs,
            confidences=extra_inputs.confidences,
        )

    return make_extra_outputs


def _patch_update_running(original: Callable[..., Any], tracer: Tracer) -> Callable[..., Any]:
    """update_running: record the committed tokens before the scheduler updates the sequences."""

    def update_running(
        self: Any, running: Any, batched_outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        extra, count = batched_outputs.extra_outputs, len(running)
        tokens = batched_outputs.next_token_ids.view(count, -1).numpy()
        masks = extra.dllm_mask.view(count, -1).numpy()
        scores = torch.stack((extra.logprobs, extra.confidences)).view(2, count, -1).numpy()
        for place, sequence in enumerate(running):
            # Aborted sequences stay in the batch until the scheduler has removed them.
            if sequence.status == MessageStatus.RUNNING:
                tracer.record(sequence, tokens[place], masks[place], scores[:, place])
        original(self, running, batched_outputs, *args, **kwargs)

    return update_running
