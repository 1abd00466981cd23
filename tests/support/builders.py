"""Values of the data plane for tests; each test names only what it varies."""

import dataclasses
from typing import Any

import numpy as np

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.trajectory import (
    FinishReason,
    Outcome,
    PromptTask,
    Purpose,
    Response,
    ScoredGroup,
    Trajectory,
    Verdict,
)

RESPONSE_FIELDS = frozenset(field.name for field in dataclasses.fields(Response))


def decoding(**changes: Any) -> DecodingConfig:
    """A decoding configuration: blocks of 4, one token per step."""
    fields: dict[str, Any] = {
        "block_size": 4,
        "denoising_steps": 4,
        "unmasking_strategy": UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC,
        "confidence_threshold": 0.9,
        "entropy_bound": 0.5,
        "selection": Selection.MAX,
        "mask_token_id": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_new_tokens": 8,
        "stop_token_ids": (2,),
    }
    return DecodingConfig.model_validate({**fields, **changes})


def prompt_task(**changes: Any) -> PromptTask:
    """A training prompt of three tokens with two generations."""
    fields: dict[str, Any] = {
        "job_id": "job_1",
        "attempt": 1,
        "group_id": "grp_1_1_train_0_0",
        "ledger_position": 0,
        "purpose": Purpose.TRAIN,
        "dataset": "",
        "prompt_ids": np.array([5, 6, 7], np.int32),
        "reference_answer": "42",
        "num_generations": 2,
        "seed": 0,
        "min_weight_version": 0,
        "decoding": decoding(),
        "graders": ("accuracy",),
        "grading_timeout_s": 1.0,
        "issued_at": 1.0,
    }
    return PromptTask(**{**fields, **changes})


def trajectory(**changes: Any) -> Trajectory:
    """A correct response of one block; fields of the response are given beside the trajectory's."""
    of_response = {name: changes.pop(name) for name in RESPONSE_FIELDS & changes.keys()}
    fields: dict[str, Any] = {
        "trajectory_id": "traj_1_1_train_0_0_0",
        "response_index": 0,
        "weight_version": 0,
        "weight_digest": "d0",
        "response": response(**of_response),
        "text": "42",
        "verdict": Verdict(outcome=Outcome.CORRECT, rewards={"accuracy": 1.0}),
    }
    return Trajectory(**{**fields, **changes})


def response(**changes: Any) -> Response:
    """A response of one block, whose third token ends it."""
    fields: dict[str, Any] = {
        "token_ids": np.array([8, 9, 2, 10], np.int32),
        "unmask_step": np.array([1, 2, 2, 3], np.int32),
        "logprobs": np.array([-0.5, -0.25, -1.0, -2.0], np.float32),
        "confidences": np.array([0.5, 0.75, 0.5, 0.25], np.float32),
        "visible_len": 3,
        "finish_reason": FinishReason.STOP,
        "num_forwards": 4,
    }
    return Response(**{**fields, **changes})


def scored_group(**changes: Any) -> ScoredGroup:
    """A group of one response."""
    fields: dict[str, Any] = {
        "group_id": "grp_1_1_train_0_0",
        "trajectories": (trajectory(),),
        "replica": "replica-0",
        "rollout_s": 0.5,
        "reward_s": 0.25,
        "finished_at": 2.0,
    }
    return ScoredGroup(**{**fields, **changes})
