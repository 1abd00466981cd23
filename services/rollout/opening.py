"""Open the session of an assignment: model skeleton, engine, streams and grader."""

from collections.abc import Callable

import torch

from services.common.model.loading import LoadedModel, load_skeleton
from services.common.streams import GroupQueue, PromptConsumer, connect
from services.common.trajectory import Int32s
from services.rollout.assignment import Assignment
from services.rollout.decoding_session import DecodingSession, StreamEnds
from services.rollout.engines.base import RolloutEngine
from services.rollout.engines.torch_engine import TorchEngine
from services.rollout.grading import GradingClient
from services.rollout.settings import RolloutSettings


def session_opener(settings: RolloutSettings) -> Callable[[Assignment], DecodingSession]:
    """Return a function that opens sessions.

    It raises PlatformError ("model_invalid", "queue_unavailable").
    """
    client = connect(settings.redis_url)

    def open_session(assignment: Assignment) -> DecodingSession:
        slots = assignment.max_batch_size or settings.rollout_batch_size
        open_engine = _open_lmdeploy if settings.rollout_engine == "lmdeploy" else _open_torch
        engine, loaded = open_engine(assignment, settings, slots)
        lease_ms = round(settings.rollout_lease_s * 1000)
        name = settings.rollout_name
        streams = StreamEnds(
            prompts=PromptConsumer(client, assignment.prompts_stream, name, lease_ms),
            groups=GroupQueue(client, assignment.groups_stream),
            lease_s=settings.rollout_lease_s,
        )

        def detokenise(token_ids: Int32s) -> str:
            return str(loaded.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))

        grader = GradingClient(assignment.reward_address, detokenise, name)
        return DecodingSession(engine, slots, streams, grader)

    return open_session


def _open_torch(
    assignment: Assignment, settings: RolloutSettings, slots: int
) -> tuple[RolloutEngine, LoadedModel]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_skeleton(assignment.model_path, assignment.dtype, device)
    return TorchEngine(
        loaded, max_sequence_tokens=assignment.max_sequence_tokens, max_batch_size=slots
    ), loaded


def _open_lmdeploy(
    assignment: Assignment, settings: RolloutSettings, slots: int
) -> tuple[RolloutEngine, LoadedModel]:
    from services.rollout.engines import lmdeploy_backend, lmdeploy_engine  # noqa: PLC0415 - an extra, import LMDeploy

    # LMDeploy reads the weights itself; of this model only names, shapes and ids are used.
    loaded = load_skeleton(assignment.model_path, assignment.dtype, "meta")
    tokens = assignment.max_sequence_tokens
    config = lmdeploy_backend.engine_config(
        loaded,
        assignment.dtype,
        -(-tokens // loaded.block_size) * loaded.block_size,
        slots,
        settings.rollout_cache_share,
    )
    backend = lmdeploy_backend.open_backend(assignment.model_path, loaded, config)
    return lmdeploy_engine.LMDeployEngine(backend, loaded, max_sequence_tokens=tokens), loaded
