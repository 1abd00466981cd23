"""The decoding state machine, against the reference's recorded runs (docs/algorithm.md, golden
example G0).
"""

from collections.abc import Mapping
from typing import Any

import pytest

from services.common.errors import PlatformError
from services.common.trajectory import FinishReason, Response
from services.rollout.engines.base import DenoisingEvent
from services.rollout.engines.torch_engine import TorchEngine
from tests.support.tiny_models import decode, decoding, request, scripted_model

END = 13
SCRIPT = {3: (5, 0.5), 4: (6, 0.6), 5: (7, 0.95), 6: (8, 0.99), 7: (9, 0.7), 8: (10, 0.2), 9: (11, 0.3), 10: (END, 0.5),
          11: (12, 0.25)}  # fmt: skip


def _run(script: Mapping[int, tuple[int, float]], prompt: list[int], **changes: Any) -> Response:
    loaded = scripted_model({0: (1, 0.5), **script}, block_size=4)
    settings = {
        "mask_token_id": 63,
        "temperature": 0.0,
        "confidence_threshold": 0.9,
        "stop_token_ids": (END,),
        **changes,
    }
    engine = TorchEngine(loaded, max_sequence_tokens=32, max_batch_size=2)
    return decode(engine, [request(prompt, decoding(**settings))])["0-0"]


@pytest.mark.parametrize(
    ("strategy", "denoising_steps", "steps", "num_forwards"),
    [
        ("low_confidence_dynamic", 4, [1, 4, 2, 2, 3, 8, 6, 5, 7], 10),
        ("low_confidence_static", 4, [1, 5, 3, 2, 4, 9, 7, 6, 8], 11),
        ("low_confidence_static", 2, [1, 3, 2, 2, 3, 5, 4, 4, 5], 7),
        ("sequential", 4, [1, 2, 3, 4, 5, 6, 7, 8, 9], 11),
    ],
)
@pytest.mark.parametrize("selection", ["max", "sampled"])
def test_the_golden_run_is_reproduced(
    strategy: str, denoising_steps: int, steps: list[int], num_forwards: int, selection: str
) -> None:
    response = _run(
        SCRIPT,
        [1, 2, 3],
        unmasking_strategy=strategy,
        denoising_steps=denoising_steps,
        selection=selection,
        max_new_tokens=9,
    )

    assert response.token_ids.tolist() == [5, 6, 7, 8, 9, 10, 11, END, 12]
    assert response.unmask_step.tolist() == steps
    assert response.num_forwards == num_forwards
    assert (response.finish_reason, response.visible_len) == (FinishReason.STOP, 8)
    assert response.confidences == pytest.approx(
        [0.5, 0.6, 0.95, 0.99, 0.7, 0.2, 0.3, 0.5, 0.25], rel=1e-5
    )


def test_the_least_entropic_positions_within_the_bound_are_committed_together() -> None:
    response = _run(
        SCRIPT,
        [1, 2, 3],
        unmasking_strategy="entropy_bounded",
        entropy_bound=0.51,
        max_new_tokens=9,
    )

    # Positions 5 and 6 have entropies of 0.405 and 0.097 nats; every other one exceeds the bound
    # alone.
    assert response.unmask_step.tolist() == [1, 4, 2, 2, 3, 8, 6, 5, 7]


def test_an_end_token_in_the_block_that_the_prompt_began_stops_the_response() -> None:
    response = _run({**SCRIPT, 3: (END, 0.5)}, [1, 2, 3], max_new_tokens=9)

    assert response.token_ids.tolist() == [END]
    assert (response.finish_reason, response.visible_len, response.num_forwards) == (
        FinishReason.STOP,
        1,
        1,
    )


def test_a_stop_token_of_the_prompt_does_not_stop_the_response() -> None:
    response = _run(SCRIPT, [1, 2, END], max_new_tokens=5)

    assert response.token_ids.tolist() == [5, 6, 7, 8, 9]
    assert response.finish_reason is FinishReason.LENGTH


def test_tokens_behind_the_end_are_kept_and_ties_go_to_the_left() -> None:
    script = {4: (END, 0.95), 5: (6, 0.95), 6: (7, 0.3), 7: (8, 0.3)}

    response = _run(script, [1, 2, 3, 4], max_new_tokens=12)

    assert response.token_ids.tolist() == [END, 6, 7, 8]
    assert response.unmask_step.tolist() == [1, 1, 2, 3]
    assert (response.visible_len, response.num_forwards) == (1, 3)


@pytest.mark.parametrize(("max_new_tokens", "length"), [(1, 1), (2, 5), (5, 5), (6, 9)])
def test_the_budget_is_rounded_up_to_whole_blocks_and_counts_the_first_mixed_block(
    max_new_tokens: int, length: int
) -> None:
    response = _run(SCRIPT, [1, 2, 3], stop_token_ids=(), max_new_tokens=max_new_tokens)

    assert (len(response.token_ids), response.visible_len) == (length, length)
    assert response.finish_reason is FinishReason.LENGTH


def test_every_step_is_reported_as_it_happens() -> None:
    events: list[DenoisingEvent] = []
    loaded = scripted_model(SCRIPT, block_size=4)
    engine = TorchEngine(loaded, max_sequence_tokens=32, max_batch_size=1, on_step=events.append)
    config = decoding(mask_token_id=63, temperature=0.0, confidence_threshold=0.9, max_new_tokens=5)

    response = decode(engine, [request([1, 2, 3], config)])["0-0"]

    assert [event.token_ids.tolist() for event in events] == [
        [5], [5, 63, 7, 8, 63], [5, 63, 7, 8, 9], [5, 6, 7, 8, 9]
    ]  # fmt: skip
    assert [event.committed.tolist() for event in events] == [[0], [2, 3], [4], [1]]
    assert [event.step for event in events] == [1, 2, 3, 4]
    assert engine.generated_tokens == len(response.token_ids)


def test_a_request_that_does_not_fit_is_refused_and_nothing_of_its_batch_is_queued() -> None:
    engine = TorchEngine(
        scripted_model(SCRIPT, block_size=4), max_sequence_tokens=15, max_batch_size=1
    )
    fits, too_long = (
        decoding(mask_token_id=63, max_new_tokens=13),
        decoding(mask_token_id=63, max_new_tokens=14),
    )

    with pytest.raises(PlatformError, match="needs 20 tokens") as caught:
        engine.submit([request([1, 2, 3], fits), request([1, 2, 3], too_long)])

    assert caught.value.code == "invalid_request"
    assert not engine.has_work


@pytest.mark.parametrize("changes", [{"block_size": 8}, {"mask_token_id": 5}])
def test_a_request_for_another_block_grid_or_mask_is_refused(changes: dict[str, int]) -> None:
    engine = TorchEngine(
        scripted_model(SCRIPT, block_size=4), max_sequence_tokens=32, max_batch_size=1
    )

    with pytest.raises(PlatformError, match="the model has 4 and 63"):
        engine.submit([request([1], decoding(**{"mask_token_id": 63, **changes}))])
