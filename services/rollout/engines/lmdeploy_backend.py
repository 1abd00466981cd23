"""The engine of LMDeploy on one CUDA device, in this process, without a server or Ray.

It uses private names of LMDeploy 0.18.0; `install` of the trace shim rejects any other version.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from lmdeploy.messages import GenerationConfig, PytorchEngineConfig, ResponseType
from lmdeploy.pytorch import envs
from lmdeploy.pytorch.engine import Engine
from torch import Tensor

from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel
from services.rollout.engines.lmdeploy_trace import Tracer, install

PAGE_TOKENS: Final = 64
"""Tokens per page of the cache: the default of LMDeploy, and a multiple of the block length."""
PREFILL_TOKENS: Final = 8192
"""Minimum number of tokens of a prefill forward."""


class CudaBackend:
    """Backend of LMDeployEngine."""

    def __init__(self, engine: Engine, tracer: Tracer) -> None:
        self._engine, self.tracer = engine, tracer
        self._instance = engine.create_instance()

    @property
    def rule(self) -> Any:
        """The DLLMConfig that every forward reads."""
        return self._agent.agent_strategy.unmasking_processor.dllm_config

    @property
    def _agent(self) -> Any:
        return self._engine.executor.model_agent

    async def generate(
        self, session_id: int, prompt_ids: list[int], config: GenerationConfig
    ) -> None:
        """See Backend."""
        self._engine.start_loop()
        status = ResponseType.INTERNAL_ENGINE_ERROR
        async for output in self._instance.async_stream_infer(session_id, prompt_ids, config):
            status = output.status
        if status is not ResponseType.FINISH:
            raise PlatformError(
                "internal",
                f"LMDeploy ended session {session_id} with {status.name}; see its log.",
            )

    async def abort(self, session_id: int) -> None:
        """See Backend."""
        await self._instance.async_cancel(session_id)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See Backend. Captured CUDA graphs stay valid, because parameters are updated in place."""
        agent = self._agent
        with torch.inference_mode(), agent.all_context():
            # No kernel may read weights while they are overwritten, nor start before they are complete.
            torch.cuda.synchronize()
            agent._load_updated_weight_bucket(list(tensors.items()), "rollout")
            if any(".experts." in name for name in tensors):
                agent._finalize_updated_weights()
            torch.cuda.synchronize()

    async def sleep(self) -> None:
        """See Backend."""
        await self._engine.sleep(level=2)

    async def wake(self) -> None:
        """See Backend."""
        self._engine.wakeup(["weights"])

    async def open_cache(self) -> None:
        """See Backend."""
        self._engine.wakeup(["kv_cache"])

    async def close(self) -> None:
        """See Backend."""
        self._engine.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._engine.wait_tasks()
        torch.cuda.empty_cache()


def engine_config(
    loaded: LoadedModel, dtype: str, max_tokens: int, max_batch_size: int, cache_share: float
) -> PytorchEngineConfig:
    """Return the settings of LMDeploy for a model; every request sets the unmasking rule.

    Raises PlatformError("model_invalid") for a block length that does not divide a page of the
    cache, and "invalid_request" for a dtype that LMDeploy has no kernels for.
    """
    if PAGE_TOKENS % loaded.block_size:
        raise PlatformError(
            "model_invalid",
            f"The model has blocks of {loaded.block_size} tokens; the pages of LMDeploy's cache have {PAGE_TOKENS}, "
            "which must be whole blocks.",
            hint="Use the engine torch.",
        )
    if dtype not in ("bfloat16", "float16"):
        raise PlatformError(
            "invalid_request",
            f"LMDeploy does not support {dtype}; it supports bfloat16 and float16.",
            hint='Set trainer.precision = "bf16", or use the engine torch.',
        )
    return PytorchEngineConfig(
        dtype=dtype,
        session_len=max_tokens,
        max_batch_size=max_batch_size,
        cache_max_entry_count=cache_share,
        block_size=PAGE_TOKENS,
        max_prefill_token_num=max(PREFILL_TOKENS, max_tokens, max_batch_size * loaded.block_size),
        # Cached prefixes would survive an update of the weights.
        enable_prefix_caching=False,
        # In this process: the tracer patches methods, and weights are updated in place.
        distributed_executor_backend="uni",
        enable_mp_engine=False,
        dllm_block_length=loaded.block_size,
        dllm_denoising_steps=loaded.block_size,
    )


def open_backend(path: Path | str, loaded: LoadedModel, config: PytorchEngineConfig) -> CudaBackend:
    """Start LMDeploy on a model directory, whose weights it reads; `loaded` may be a skeleton.

    Raises PlatformError: "preflight_failed" for an unknown version of LMDeploy, "oom_rollout" if the
    cache is too small for one response.
    """
    tracer = install(loaded.mask_token_id)
    # By default LMDeploy prints every request to standard output.
    logger = logging.getLogger("lmdeploy")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    # The check runs in a child process and ends this one when it fails.
    envs.enable_check_env = False
    try:
        engine = Engine.from_pretrained(os.fspath(path), config)
    except SystemExit as error:
        raise PlatformError(
            "internal", f"LMDeploy did not start with {path} ({error}); see its log."
        ) from error
    if engine.max_session_len < config.session_len:
        held = engine.max_session_len
        engine.close()
        raise PlatformError(
            "oom_rollout",
            f"The cache of LMDeploy has {held} tokens; one response may need {config.session_len}.",
            hint="Lower sampling.max_new_tokens or prompt.max_prompt_tokens, or give the replica more memory.",
        )
    return CudaBackend(engine, tracer)
