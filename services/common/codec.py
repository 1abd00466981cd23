"""Protobuf and JSON forms of the data plane's vocabulary; the only module that knows both sides."""

import json
from typing import Any, Final

import numpy as np

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import types_pb2
from services.common.trajectory import (
    Candidates,
    FinishReason,
    Float32s,
    Int32s,
    Outcome,
    PromptTask,
    Purpose,
    Response,
    ScoredGroup,
    Trajectory,
    Verdict,
)

SCHEMA_VERSION = 3
"""Of the messages on the streams; every prompt states it, so that releases that differ do not mix."""
_MAX_RECORDED_ROW: Final = 65_536
"""Characters of a row beyond which a recorded group does not have it."""


def pack_int32(values: Int32s) -> bytes:
    """[n] integers as little-endian int32."""
    return np.ascontiguousarray(values, dtype="<i4").tobytes()


def unpack_int32(data: bytes) -> Int32s:
    """Inverse of pack_int32; a copy of its own, because torch shares writable memory only."""
    return np.frombuffer(data, dtype="<i4").astype(np.int32)


def pack_float32(values: Float32s) -> bytes:
    """[n] numbers as little-endian float32."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def unpack_float32(data: bytes) -> Float32s:
    """Inverse of pack_float32, copied as well."""
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def decoding_to_pb(config: DecodingConfig) -> types_pb2.DecodingConfig:
    """Decoding configuration to its message."""
    return types_pb2.DecodingConfig(**config.model_dump(mode="json"))


def decoding_from_pb(message: types_pb2.DecodingConfig) -> DecodingConfig:
    """Message to decoding configuration; raises pydantic.ValidationError."""
    fields = {name: getattr(message, name) for name in DecodingConfig.model_fields}
    return DecodingConfig.model_validate(
        {
            **fields,
            "unmasking_strategy": UnmaskingStrategy(message.unmasking_strategy),
            "selection": Selection(message.selection),
            "stop_token_ids": tuple(message.stop_token_ids),
        }
    )


def outcome_to_pb(outcome: Outcome) -> types_pb2.Outcome.ValueType:
    """Outcome to its enumerator."""
    return types_pb2.Outcome.Value(f"OUTCOME_{outcome.name}")


def outcome_from_pb(value: types_pb2.Outcome.ValueType) -> Outcome:
    """Enumerator to outcome; an unset one is an error, never a zero reward."""
    name = types_pb2.Outcome.Name(value).removeprefix("OUTCOME_")
    if name == "UNSPECIFIED":
        raise PlatformError(
            "internal", "A verdict without an outcome was received; every verdict must state one."
        )
    return Outcome[name]


_VERDICT_FIELDS = (
    "reason", "extracted", "extraction_method", "normalized_reference_answer", "normalized_answer", "compare_path",
    "cpu_ms", "wall_ms", "queue_ms", "verifier_version", "judge_tokens",
)  # fmt: skip


def verdict_to_pb(verdict: Verdict) -> types_pb2.Verdict:
    """Verdict to its message."""
    fields = {name: getattr(verdict, name) for name in _VERDICT_FIELDS}
    return types_pb2.Verdict(
        outcome=outcome_to_pb(verdict.outcome),
        rewards=verdict.rewards,
        grader_s=verdict.grader_s,
        explanations=verdict.explanations,
        **fields,
    )


def verdict_from_pb(message: types_pb2.Verdict) -> Verdict:
    """Message to verdict."""
    fields = {name: getattr(message, name) for name in _VERDICT_FIELDS}
    return Verdict(
        outcome=outcome_from_pb(message.outcome),
        rewards=dict(message.rewards),
        grader_s=dict(message.grader_s),
        explanations=dict(message.explanations),
        **fields,
    )


_TASK_FIELDS = (
    "job_id", "attempt", "group_id", "ledger_position", "dataset", "reference_answer", "num_generations", "seed",
    "min_weight_version", "grading_timeout_s", "issued_at", "answer_type", "row",
)  # fmt: skip


def task_to_pb(task: PromptTask) -> types_pb2.PromptTask:
    """Prompt task to its message."""
    return types_pb2.PromptTask(
        schema_version=SCHEMA_VERSION,
        purpose=types_pb2.Purpose.Value(f"PURPOSE_{task.purpose.name}"),
        prompt_ids=pack_int32(task.prompt_ids),
        decoding=decoding_to_pb(task.decoding),
        graders=task.graders,
        **{name: getattr(task, name) for name in _TASK_FIELDS},
    )


def task_from_pb(message: types_pb2.PromptTask) -> PromptTask:
    """Message to prompt task; refuses another schema version."""
    if message.schema_version != SCHEMA_VERSION:
        raise PlatformError(
            "internal",
            f"A prompt task of schema {message.schema_version} was received; this service speaks {SCHEMA_VERSION}.",
            hint="Run the same release of every service.",
        )
    return PromptTask(
        purpose=Purpose[types_pb2.Purpose.Name(message.purpose).removeprefix("PURPOSE_")],
        prompt_ids=unpack_int32(message.prompt_ids),
        decoding=decoding_from_pb(message.decoding),
        graders=tuple(message.graders),
        **{name: getattr(message, name) for name in _TASK_FIELDS},
    )


def candidates_to_pb(candidates: Candidates) -> types_pb2.Candidates:
    """Candidates to their message."""
    return types_pb2.Candidates(
        position=pack_int32(candidates.position),
        step=pack_int32(candidates.step),
        token_ids=pack_int32(candidates.token_ids),
        logprobs=pack_float32(candidates.logprobs),
    )


def candidates_from_pb(message: types_pb2.Candidates) -> Candidates:
    """Message to candidates; an absent one has none."""
    return Candidates(
        position=unpack_int32(message.position),
        step=unpack_int32(message.step),
        token_ids=unpack_int32(message.token_ids),
        logprobs=unpack_float32(message.logprobs),
    )


_RESPONSE_FIELDS = ("visible_len", "num_forwards")


def response_to_pb(response: Response) -> types_pb2.Response:
    """Response to its message."""
    return types_pb2.Response(
        token_ids=pack_int32(response.token_ids),
        unmask_step=pack_int32(response.unmask_step),
        logprobs=pack_float32(response.logprobs),
        confidences=pack_float32(response.confidences),
        finish_reason=response.finish_reason.value,
        rejected=candidates_to_pb(response.rejected),
        **{name: getattr(response, name) for name in _RESPONSE_FIELDS},
    )


def response_from_pb(message: types_pb2.Response) -> Response:
    """Message to response."""
    return Response(
        token_ids=unpack_int32(message.token_ids),
        unmask_step=unpack_int32(message.unmask_step),
        logprobs=unpack_float32(message.logprobs),
        confidences=unpack_float32(message.confidences),
        finish_reason=FinishReason(message.finish_reason),
        rejected=candidates_from_pb(message.rejected),
        **{name: getattr(message, name) for name in _RESPONSE_FIELDS},
    )


_TRAJECTORY_FIELDS = (
    "trajectory_id", "response_index", "weight_version", "weight_digest", "text",
)  # fmt: skip


def trajectory_to_pb(trajectory: Trajectory) -> types_pb2.Trajectory:
    """Trajectory to its message."""
    return types_pb2.Trajectory(
        response=response_to_pb(trajectory.response),
        verdict=None if trajectory.verdict is None else verdict_to_pb(trajectory.verdict),
        **{name: getattr(trajectory, name) for name in _TRAJECTORY_FIELDS},
    )


def trajectory_from_pb(message: types_pb2.Trajectory) -> Trajectory:
    """Message to trajectory."""
    return Trajectory(
        response=response_from_pb(message.response),
        verdict=verdict_from_pb(message.verdict) if message.HasField("verdict") else None,
        **{name: getattr(message, name) for name in _TRAJECTORY_FIELDS},
    )


_GROUP_FIELDS = ("group_id", "replica", "rollout_s", "reward_s", "finished_at")


def group_to_pb(group: ScoredGroup) -> types_pb2.ScoredGroup:
    """Scored group to its message."""
    return types_pb2.ScoredGroup(
        trajectories=[trajectory_to_pb(t) for t in group.trajectories],
        **{name: getattr(group, name) for name in _GROUP_FIELDS},
    )


def group_from_pb(message: types_pb2.ScoredGroup) -> ScoredGroup:
    """Message to scored group."""
    return ScoredGroup(
        trajectories=tuple(trajectory_from_pb(t) for t in message.trajectories),
        **{name: getattr(message, name) for name in _GROUP_FIELDS},
    )


def response_to_json(response: Response) -> dict[str, Any]:
    """Response as plain JSON values."""
    return {
        **{name: getattr(response, name) for name in _RESPONSE_FIELDS},
        "finish_reason": response.finish_reason.value,
        "num_steps": response.num_steps,
        "token_ids": response.token_ids.tolist(),
        "unmask_step": response.unmask_step.tolist(),
        "logprobs": [round(float(value), 6) for value in response.logprobs],
        "confidences": [round(float(value), 6) for value in response.confidences],
    }


def trajectory_to_json(trajectory: Trajectory) -> dict[str, Any]:
    """Trajectory as plain JSON values, for events and the REST interface."""
    verdict = trajectory.verdict
    return {
        **{name: getattr(trajectory, name) for name in _TRAJECTORY_FIELDS},
        **response_to_json(trajectory.response),
        "verdict": None if verdict is None else verdict_to_json(verdict),
    }


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """Verdict as plain JSON values."""
    fields = {name: getattr(verdict, name) for name in _VERDICT_FIELDS}
    return {
        "outcome": verdict.outcome.value,
        "rewards": verdict.rewards,
        "grader_s": verdict.grader_s,
        "explanations": verdict.explanations,
        **fields,
    }


def group_to_json(task: PromptTask, group: ScoredGroup) -> dict[str, Any]:
    """A prompt and its scored group as plain JSON values."""
    return {
        **{name: getattr(group, name) for name in _GROUP_FIELDS},
        "ledger_position": task.ledger_position,
        "purpose": task.purpose.value,
        "dataset": task.dataset,
        "reference_answer": task.reference_answer,
        "answer_type": task.answer_type,
        # Unit tests of a row may have megabytes, and eight groups are recorded at every step.
        "row": json.loads(task.row) if len(task.row) <= _MAX_RECORDED_ROW else None,
        "prompt_ids": task.prompt_ids.tolist(),
        "block_size": task.decoding.block_size,
        "mask_token_id": task.decoding.mask_token_id,
        "trajectories": [trajectory_to_json(t) for t in group.trajectories],
    }
