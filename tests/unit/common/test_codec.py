"""Every value of the data plane survives its message."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.common import codec
from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import types_pb2
from services.common.trajectory import (
    Candidates,
    FinishReason,
    Outcome,
    PromptTask,
    Purpose,
    Response,
    ScoredGroup,
    Trajectory,
    Verdict,
)
from tests.support.builders import prompt_task, scored_group

_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
_INT32 = st.integers(-(2**31), 2**31 - 1)
_COUNT = st.integers(0, 2**31 - 1)
_SEED = st.integers(-(2**63), 2**63 - 1)
_INT32S = hnp.arrays(np.int32, st.integers(0, 8))
_FLOAT32S = hnp.arrays(np.float32, st.integers(0, 8), elements=st.floats(width=32, allow_nan=False))

DECODINGS = st.builds(
    DecodingConfig,
    block_size=st.integers(1, 64),
    denoising_steps=st.integers(1, 64),
    unmasking_strategy=st.sampled_from(UnmaskingStrategy),
    confidence_threshold=st.floats(0, 1),
    entropy_bound=st.floats(0, 10),
    selection=st.sampled_from(Selection),
    mask_token_id=_COUNT,
    temperature=st.floats(0, 5),
    top_p=st.floats(0.1, 1),
    top_k=_COUNT,
    max_new_tokens=st.integers(1, 2**31 - 1),
    stop_token_ids=st.lists(_COUNT, max_size=3).map(tuple),
)
VERDICTS = st.builds(
    Verdict,
    outcome=st.sampled_from(Outcome),
    reason=_TEXT,
    extracted=_TEXT,
    extraction_method=_TEXT,
    normalized_reference_answer=_TEXT,
    normalized_answer=_TEXT,
    compare_path=_TEXT,
    cpu_ms=_FINITE,
    wall_ms=_FINITE,
    queue_ms=_FINITE,
    verifier_version=_TEXT,
    rewards=st.dictionaries(_TEXT, _FINITE, max_size=3),
    grader_s=st.dictionaries(_TEXT, _FINITE, max_size=3),
    judge_tokens=_FINITE,
    explanations=st.dictionaries(_TEXT, _TEXT, max_size=3),
)
TASKS = st.builds(
    PromptTask,
    job_id=_TEXT,
    attempt=_INT32,
    group_id=_TEXT,
    ledger_position=_SEED,
    purpose=st.sampled_from(Purpose),
    dataset=_TEXT,
    prompt_ids=_INT32S,
    reference_answer=_TEXT,
    row=_TEXT,
    num_generations=_INT32,
    seed=_SEED,
    min_weight_version=_SEED,
    decoding=DECODINGS,
    graders=st.lists(_TEXT, max_size=3).map(tuple),
    grading_timeout_s=_FINITE,
    issued_at=_FINITE,
)
RESPONSES = st.builds(
    Response,
    token_ids=_INT32S,
    unmask_step=_INT32S,
    logprobs=_FLOAT32S,
    confidences=_FLOAT32S,
    visible_len=_INT32,
    finish_reason=st.sampled_from(FinishReason),
    num_forwards=_INT32,
    rejected=st.builds(
        Candidates, position=_INT32S, step=_INT32S, token_ids=_INT32S, logprobs=_FLOAT32S
    ),
)
TRAJECTORIES = st.builds(
    Trajectory,
    trajectory_id=_TEXT,
    response_index=_INT32,
    weight_version=_SEED,
    weight_digest=_TEXT,
    response=RESPONSES,
    text=_TEXT,
    verdict=st.none() | VERDICTS,
)
GROUPS = st.builds(
    ScoredGroup,
    group_id=_TEXT,
    trajectories=st.lists(TRAJECTORIES, max_size=2).map(tuple),
    replica=_TEXT,
    rollout_s=_FINITE,
    reward_s=_FINITE,
    finished_at=_FINITE,
)


def plain(value: Any) -> Any:
    """Comparable form: arrays with their dtype, dataclasses as mappings."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.tolist()
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


@given(GROUPS)
def test_a_group_survives_its_message_with_every_field(group: ScoredGroup) -> None:
    data = codec.group_to_pb(group).SerializeToString()

    assert plain(codec.group_from_pb(types_pb2.ScoredGroup.FromString(data))) == plain(group)


@given(TASKS)
def test_a_task_survives_its_message_with_every_field(task: PromptTask) -> None:
    data = codec.task_to_pb(task).SerializeToString()

    assert plain(codec.task_from_pb(types_pb2.PromptTask.FromString(data))) == plain(task)


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_an_enumerator(outcome: Outcome) -> None:
    assert codec.outcome_from_pb(codec.outcome_to_pb(outcome)) is outcome


def test_a_verdict_without_outcome_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(PlatformError, match="must state one"):
        codec.verdict_from_pb(types_pb2.Verdict())


def test_a_task_of_another_schema_is_refused() -> None:
    message = codec.task_to_pb(prompt_task())
    message.schema_version += 1

    with pytest.raises(PlatformError, match="same release"):
        codec.task_from_pb(message)


def test_unpacked_arrays_are_little_endian_values() -> None:
    assert codec.unpack_int32(b"\x01\x00\x00\x00\xff\xff\xff\xff").tolist() == [1, -1]
    assert codec.unpack_float32(b"\x00\x00\x80\x3f").tolist() == [1.0]


def test_the_json_form_names_the_diffusion_facts_a_viewer_needs() -> None:
    data = codec.group_to_json(prompt_task(num_generations=1), scored_group())

    assert (data["block_size"], data["mask_token_id"], data["purpose"]) == (4, 1, "train")
    assert data["trajectories"][0]["unmask_step"] == [1, 2, 2, 3]
    assert data["trajectories"][0]["num_steps"] == 3
    assert data["trajectories"][0]["verdict"]["outcome"] == "correct"


def test_a_recorded_group_has_its_row_unless_that_is_very_long() -> None:
    row = {"prompt": "q", "tests": ["x" * 65_000]}
    task = prompt_task(row=json.dumps(row))
    assert codec.group_to_json(task, scored_group())["row"] == row

    longer = prompt_task(row=json.dumps({"tests": "x" * 65_536}))
    assert codec.group_to_json(longer, scored_group())["row"] is None
