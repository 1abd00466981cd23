from typing import Any

import numpy as np
import pytest

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.errors import PlatformError
from services.common.grader_spec import parse_grader
from services.common.trajectory import (
    FinishReason,
    Outcome,
    PromptTask,
    Purpose,
    ScoredGroup,
    Trajectory,
    Verdict,
)
from services.trainer.learner.rubric import group_rewards


def _trajectory(number: int, verdict: Verdict | None) -> Trajectory:
    ids = np.array([number, 5], dtype=np.int32)
    return Trajectory(
        trajectory_id=f"traj_{number}", response_index=number, weight_version=3, weight_digest="d", token_ids=ids,
        unmask_step=np.array([1, 2], dtype=np.int32), logprobs=np.full(2, -number, dtype=np.float32),
        confidences=np.ones(2, dtype=np.float32), visible_len=2, finish_reason=FinishReason.STOP, num_forwards=3,
        verdict=verdict,
    )  # fmt: skip


def _group(*verdicts: Verdict | None) -> ScoredGroup:
    decoding = DecodingConfig(
        block_size=2, denoising_steps=2, unmasking_strategy=UnmaskingStrategy.SEQUENTIAL, confidence_threshold=0.9,
        entropy_bound=0.5, selection=Selection.MAX, mask_token_id=9, temperature=1.0, top_p=1.0, top_k=0,
        max_new_tokens=2, stop_token_ids=(0,),
    )  # fmt: skip
    task = PromptTask(
        job_id="job_1", attempt=1, group_id="grp_1", ledger_position=0, purpose=Purpose.TRAIN, dataset="",
        prompt_ids=np.array([1, 2], dtype=np.int32), gold="7", num_generations=len(verdicts), seed=0,
        min_weight_version=0, decoding=decoding, graders=("accuracy",), grading_timeout_s=1.0, issued_at=0.0,
    )  # fmt: skip
    trajectories = tuple(_trajectory(number, verdict) for number, verdict in enumerate(verdicts))
    return ScoredGroup(
        task=task,
        trajectories=trajectories,
        replica="r",
        rollout_s=1.0,
        reward_s=1.0,
        finished_at=1.0,
    )


def _verdict(outcome: Outcome = Outcome.CORRECT, **rewards: Any) -> Verdict:
    return Verdict(outcome=outcome, rewards=rewards)


def test_the_reward_is_the_weighted_sum_of_the_specs_graders() -> None:
    graders = [parse_grader("accuracy"), parse_grader({"name": "boxed", "weight": 0.2})]
    group = _group(
        _verdict(accuracy=1.0, boxed=0.5),
        _verdict(Outcome.INCORRECT, accuracy=0.0, boxed=1.0, format=9.0),
    )

    # 1·1 + 0.2·0.5; 0 + 0.2·1, a score nobody asked for is not added
    assert group_rewards(group, graders) == pytest.approx([1.1, 0.2])


def test_an_unscored_outcome_has_no_reward() -> None:
    group = _group(
        _verdict(Outcome.UNVERIFIABLE), _verdict(Outcome.ABORTED), _verdict(accuracy=1.0)
    )

    assert group_rewards(group, [parse_grader("accuracy")]) == [None, None, 1.0]


def test_a_missing_score_is_an_error_not_a_zero() -> None:
    with pytest.raises(PlatformError, match=r"traj_1: grader 'format'.*only \['accuracy'\]"):
        group_rewards(
            _group(_verdict(accuracy=1.0, format=1.0), _verdict(accuracy=1.0)),
            [parse_grader("format")],
        )


def test_a_response_that_was_never_graded_is_an_error() -> None:
    with pytest.raises(PlatformError, match="traj_0: it was never graded"):
        group_rewards(_group(None), [parse_grader("accuracy")])
