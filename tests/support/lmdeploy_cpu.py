"""LMDeploy's own engine, driven on a CPU.

Engine loop, scheduler, paging, requests, step inputs, sampling parameters, logits processing,
unmasking, stopping and sleep are LMDeploy's. What needs a device is replaced: streams and events,
the Triton kernel that draws (by one that, like it, depends on seed and offset only), and the model
(by one of ours; the pages of the cache hold token ids in place of keys and values, and every
forward attends anew). Import after `lmdeploy_package.put_on_path()`.
"""

import contextlib
import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lmdeploy.pytorch.engine import logits_process
from lmdeploy.pytorch.engine.executor.base import ExecutorBase
from lmdeploy.pytorch.engine.model_agent import agent as model_agent
from torch import Tensor, nn

from services.common.diffusion.randomness import uniforms
from services.common.model.forward import hidden_states
from services.common.model.index import RowIndex
from services.common.model.loading import LoadedModel, blank_model
from services.common.model.state import export_state, import_state
from services.rollout.engines import lmdeploy_backend, lmdeploy_trace
from services.rollout.engines.lmdeploy_engine import LMDeployEngine

PAGES = 256
"""Of the cache."""


def untouched(patch: pytest.MonkeyPatch) -> None:
    """Have everything that the shim replaces put back at the end of the test, and the kernel
    replaced.
    """
    for owner, name in lmdeploy_trace.PATCHED:
        patch.setattr(owner, name, owner.__dict__[name])
    patch.setattr(logits_process, "_multinomial_sampling", _draw)


def open_engine(
    patch: pytest.MonkeyPatch, directory: Path, loaded: LoadedModel, max_sequence_tokens: int
) -> LMDeployEngine:
    """An engine of the model, whose configuration stands in the directory and whose weights are
    given.
    """
    _without_device(patch, loaded)
    config = lmdeploy_backend.engine_config(loaded, "bfloat16", max_sequence_tokens, 16, 0.8)
    backend = lmdeploy_backend.open_backend(directory, loaded, config)
    return LMDeployEngine(backend, loaded, max_sequence_tokens=max_sequence_tokens)


def _without_device(patch: pytest.MonkeyPatch, loaded: LoadedModel) -> None:
    for name in ("Stream", "Event", "current_stream"):
        patch.setattr(torch.cuda, name, _Done)
    patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    patch.setattr(torch.cuda, "synchronize", lambda: None)
    patch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None, raising=False)
    patch.setattr(model_agent, "_try_to_cuda", _copied)
    patch.setattr(ExecutorBase, "update_configs", _with_pages)
    agent = model_agent.BaseModelAgent
    patch.setattr(
        agent,
        "_push_output",
        lambda self, output: self._out_que.put_nowait((_copied(output), _Done())),
    )
    patch.setattr(agent, "build_model", lambda self: _build(self, loaded))
    patch.setattr(agent, "build_cache_plans", _no_plans)
    patch.setattr(agent, "build_graph_runner", lambda self: None)
    patch.setattr(agent, "build_cache_engine", _build_pages)
    patch.setattr(agent, "warmup", lambda self: None)
    patch.setattr(agent, "_forward_impl", _forward)


def _copied(value: Any, non_blocking: bool = False) -> Any:
    """What a transfer between host and device gives: the same, in other memory."""
    value = copy.deepcopy(value)
    return value.to_device("cpu") if hasattr(value, "to_device") else value


class _Done:
    """A stream or event on which nothing is ever pending."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def query(self) -> bool:
        return True

    def _nothing(self, *_: Any) -> None: ...

    record = wait = wait_event = synchronize = _nothing


class PagedModel(nn.Module):
    """A model of ours under the methods that LMDeploy asks of its own."""

    def __init__(self, loaded: LoadedModel, *, empty: bool) -> None:
        super().__init__()
        self.decoder = blank_model(loaded.model.config, torch.float32, "cpu").eval()
        self.block_size = loaded.block_size
        if not empty:
            import_state(self.decoder, export_state(loaded.model))

    def get_model(self) -> "PagedModel":
        return self

    def get_input_processor(self) -> None: ...

    def reset(self) -> None: ...

    def get_prefill_warmup_token_sizes(self) -> tuple[int, ...]:
        return ()

    def get_logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.decoder.get_output_embeddings()(hidden)
        return logits

    def load_weights(self, weights: Any) -> None:
        import_state(self.decoder, dict(weights))


def _build(self: Any, loaded: LoadedModel) -> None:
    self.patched_model = PagedModel(loaded, empty=self.misc_config.empty_init)


def _with_pages(self: Any) -> None:
    self.cache_config.num_gpu_blocks = PAGES
    self.cache_config.states_shapes = self.model_config.states_shapes
    self.set_cache_config(self.cache_config, None)
    self.set_model_config(self.model_config, None)
    self._prepare_worker_cache_plans(self.cache_config, None)


def _no_plans(self: Any, *_: Any) -> tuple[int, int, int]:
    self._cache_plan_block_nbytes = (0, 0)
    return 0, 0, 0


def _build_pages(self: Any) -> None:
    self.cache_engine = SimpleNamespace(
        tokens=torch.zeros(PAGES, lmdeploy_backend.PAGE_TOKENS, dtype=torch.int64)
    )


def _forward(self: Any, inputs: Any, cache_inputs: Any = None) -> dict[str, Any]:
    """Hidden states [1, T, H] of the tokens given, each sequence in the light of what its pages
    hold.
    """
    model, pages, hidden = self.patched_model, self.cache_engine.tokens, []
    given = inputs.input_ids[0].split(inputs.seq_length.tolist())
    for row, (history, new) in enumerate(zip(inputs.history_lengths.tolist(), given, strict=True)):
        places = torch.arange(history + len(new))
        page, offset = (
            inputs.block_offsets[row][places // pages.shape[1]].long(),
            places % pages.shape[1],
        )
        pages[page[history:], offset[history:]] = new
        index = RowIndex.clean(len(places), model.block_size)
        hidden.append(hidden_states(model.decoder, pages[page, offset], index)[history:])
    return {
        "hidden_states": torch.cat(hidden)[None],
        "seq_length": inputs.seq_length,
        "model_metas": None,
    }


def _draw(scores: Tensor, seeds: Tensor, offsets: Tensor, indices: Tensor) -> Tensor:
    """One token per row from sorted probabilities; the uniform number is a function of seed and
    offset alone.
    """
    numbers = uniforms(seeds, offsets[:, None], torch.zeros_like(seeds))
    cdf = scores.double().cumsum(-1)
    places = torch.searchsorted(cdf, numbers * cdf[:, -1:], right=True).clamp(
        max=scores.shape[1] - 1
    )
    return indices.gather(1, places)[:, 0]
