import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import PlatformError
from services.common.model.index import visibility_mask
from services.common.trajectory import Candidates
from services.trainer.training.sft import NoisyExample
from services.trainer.training.trajectory_rows import PackedRow, Sample, rl_rows, sft_rows
from tests.support.numerics import response_of

MASK = 99
GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "trajectory_rows.json").read_text())


def _sample(prompt: list[int], response: list[int], steps: list[int], **fields: Any) -> Sample:
    trajectory_id = fields.pop("trajectory_id", "traj_1")
    token_ids, unmask_step = (np.array(ids, dtype=np.int32) for ids in (response, steps))
    recorded = {"logprobs": np.zeros(len(response)), **fields}
    return Sample(
        trajectory_id=trajectory_id,
        prompt_ids=np.array(prompt, dtype=np.int32),
        response=response_of(token_ids, unmask_step, **recorded),
        advantage=1.0,
    )


def _rows(samples: list[Sample], block_size: int, max_tokens: int = 10_000) -> list[PackedRow]:
    return rl_rows(samples, block_size=block_size, mask_token_id=MASK, max_tokens=max_tokens)


def _noisy(prompt_len: int, masked: list[bool]) -> NoisyExample:
    ids = np.arange(prompt_len + len(masked), dtype=np.int32)
    return NoisyExample(
        prompt_ids=ids[:prompt_len],
        token_ids=ids[prompt_len:],
        state=np.array(masked, np.int32),
        weight=np.ones(len(masked)),
    )


@st.composite
def _samples(draw: st.DrawFn) -> tuple[int, list[Sample]]:
    block_size = draw(st.sampled_from([1, 2, 4, 5]))
    samples = []
    for number in range(draw(st.integers(1, 6))):
        total = block_size * draw(st.integers(1, 5))
        prompt_len = draw(st.integers(0, total - 1))
        steps = draw(
            st.lists(st.integers(1, 9), min_size=total - prompt_len, max_size=total - prompt_len)
        )
        ids = list(range(total))
        samples.append(
            _sample(ids[:prompt_len], ids[prompt_len:], steps, trajectory_id=f"traj_{number}")
        )
    return block_size, samples


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_a_row_shows_each_state_as_the_golden_example_says(case: dict[str, Any]) -> None:
    names = [*case["prompt"], *case["response"]]
    prompt_len, block_size = len(case["prompt"]), case["block_size"]
    ids = list(range(len(names)))

    (row,) = _rows([_sample(ids[:prompt_len], ids[prompt_len:], case["unmask_step"])], block_size)

    shown = ["M" if token == MASK else names[token] for token in row.token_ids.tolist()]
    assert shown[: len(names)] == names
    starts = range(len(names), len(shown), block_size)
    states = [
        {
            "block": int(row.index.block[start]),
            "copy": int(row.index.copy[start]),
            "tokens": " ".join(shown[start : start + block_size]),
            "loss": [names[t] for at, t in zip(row.loss_at.tolist(), row.targets.tolist(), strict=True)
                     if start <= at < start + block_size],
        }
        for start in starts
    ]  # fmt: skip
    assert states == case["states"]
    assert _picture(row, block_size) == case["visible"]


def _picture(row: PackedRow, block_size: int) -> list[str]:
    lines = [
        "".join(".#"[int(bit)] for bit in query) for query in visibility_mask(row.index, row.index)
    ]
    assert all(len(set(lines[i : i + block_size])) == 1 for i in range(0, len(lines), block_size))
    return [f"{line}  x{block_size}" for line in lines[::block_size]]


def test_positions_are_absolute_and_restart_with_every_state_of_a_block() -> None:
    (row,) = _rows([_sample([7, 8], [1, 2, 3, 4], [1, 1, 3, 2])], 2)

    assert row.index.position.tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 4, 5]
    assert row.sample.tolist() == [0] * 4
    assert row.token.tolist() == [0, 1, 3, 2]


@settings(deadline=None, max_examples=150)
@given(_samples(), st.integers(1, 80))
def test_every_response_token_has_its_loss_exactly_once_in_its_masked_state(
    batch: tuple[int, list[Sample]], max_tokens: int
) -> None:
    block_size, samples = batch

    rows = _rows(samples, block_size, max_tokens)

    seen = [
        pair for row in rows for pair in zip(row.sample.tolist(), row.token.tolist(), strict=True)
    ]
    assert sorted(seen) == [
        (i, t) for i, sample in enumerate(samples) for t in range(len(sample.response.token_ids))
    ]
    for row in rows:
        assert torch.all(row.token_ids[row.loss_at] == MASK)
        assert torch.all(torch.diff(row.loss_at) > 0)
        expected = [
            int(samples[s].response.token_ids[t])
            for s, t in zip(row.sample.tolist(), row.token.tolist(), strict=True)
        ]
        assert row.targets.tolist() == expected


@settings(deadline=None, max_examples=150)
@given(_samples(), st.integers(1, 80))
def test_a_row_is_as_long_as_its_documents_and_keeps_the_budget_unless_it_holds_one_document(
    batch: tuple[int, list[Sample]], max_tokens: int
) -> None:
    block_size, samples = batch

    rows = _rows(samples, block_size, max_tokens)

    assert sum(len(row.token_ids) for row in rows) == sum(
        _length(sample, block_size) for sample in samples
    )
    for row in rows:
        documents = row.index.document.unique_consecutive()
        assert documents.tolist() == list(range(len(documents)))
        assert len(row.token_ids) <= max_tokens or len(documents) == 1


def _length(sample: Sample, block_size: int) -> int:
    """P + R + B · Σ_b K_b"""
    steps = [0] * len(sample.prompt_ids) + sample.response.unmask_step.tolist()
    blocks = [set(steps[i : i + block_size]) - {0} for i in range(0, len(steps), block_size)]
    return len(steps) + block_size * sum(len(block) for block in blocks)


def test_documents_are_packed_longest_first_into_the_first_row_that_fits() -> None:
    # Lengths with one state per response block: 2 + 2·R → 4, 6 (R = 2), 10 (R = 4), 6.
    samples = [
        _sample([1, 2], list(range(r)), [1 + i // 2 for i in range(r)]) for r in (2, 2, 4, 2)
    ]

    rows = _rows(samples, 2, max_tokens=12)

    assert [row.sample.unique_consecutive().tolist() for row in rows] == [[2], [0, 1], [3]]


def test_packing_the_same_samples_again_gives_the_same_rows() -> None:
    samples = [
        _sample([1], [2, 3, 4], [1, 2, 3]),
        _sample([1, 2], [5, 6], [2, 1]),
        _sample([4], [5], [1]),
    ]

    first, second = _rows(samples, 2, 12), _rows(samples, 2, 12)

    assert [row.token_ids.tolist() for row in first] == [row.token_ids.tolist() for row in second]


def test_a_rejected_candidate_has_its_loss_in_the_state_in_which_it_was_sampled() -> None:
    """Two blocks of four, one prompt token; steps 1 2 3 and 4 5 6 are their states 1 2 3."""
    expected = {(0, 1): 1, (0, 2): 2, (3, 4): 1, (6, 4): 1, (6, 5): 2}
    position, step = np.array(list(expected), np.int32).T
    rejected = Candidates(
        position=position, step=step, token_ids=step + 50, logprobs=np.zeros(len(step))
    )

    (row,) = _rows(
        [_sample([0], [1, 2, 3, 4, 5, 6, 7], [3, 1, 2, 5, 4, 4, 6], rejected=rejected)], 4
    )

    terms = zip(row.loss_at.tolist(), row.targets.tolist(), row.committed.tolist(), strict=True)
    found = [(at, target) for at, target, committed in terms if not committed]
    where = {
        (int(row.index.position[at]) - 1, target - 50): int(row.index.copy[at])
        for at, target in found
    }
    assert where == expected
    assert {int(row.token_ids[at]) for at, _ in found} == {MASK}


def test_supervised_rows_have_one_state_per_block_with_a_masked_token() -> None:
    # Blocks of two: prompt [0 1], mixed [2 | 3], answer [4 5] left alone, answer [6 7] with one
    # masked token.
    (row,) = sft_rows(
        [_noisy(3, [True, False, False, False, True])],
        block_size=2,
        mask_token_id=MASK,
        max_tokens=100,
    )

    assert row.token_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 2, MASK, 6, MASK]
    assert row.index.block.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 1, 1, 3, 3]
    assert row.index.copy.tolist() == [0] * 8 + [1] * 4
    assert (row.loss_at.tolist(), row.targets.tolist(), row.token.tolist()) == (
        [9, 11],
        [3, 7],
        [0, 4],
    )


def test_a_fully_masked_answer_takes_the_clean_document_and_its_answer_blocks_once_more() -> None:
    (row,) = sft_rows([_noisy(4, [True] * 6)], block_size=2, mask_token_id=MASK, max_tokens=100)

    assert len(row.token_ids) == 4 + 2 * 6


def test_an_example_without_a_masked_token_adds_no_row_and_shifts_no_other() -> None:
    examples = [_noisy(2, [False, False]), _noisy(2, [True, True])]

    (row,) = sft_rows(examples, block_size=2, mask_token_id=MASK, max_tokens=100)

    assert row.sample.tolist() == [1, 1]
    assert sft_rows(examples[:1], block_size=2, mask_token_id=MASK, max_tokens=100) == []


def test_an_example_that_does_not_fill_its_blocks_is_refused_even_if_the_batch_would() -> None:
    with pytest.raises(ValueError, match=r"blocks of 2 tokens, their lengths are \[3, 5\]"):
        sft_rows(
            [_noisy(1, [True] * 2), _noisy(1, [True] * 4)],
            block_size=2,
            mask_token_id=MASK,
            max_tokens=100,
        )


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (_sample([1], [2, 3], [1, 1]), "3 tokens"),
        (_sample([1], [2, 3, 4], [1, 0, 1]), "first step is 0"),
        (_sample([1], [2, 3, 4], [1, 1]), "2 steps"),
        (_sample([1], [2, 3, 4], [1, 1, 1], logprobs=np.zeros(2)), "2 log-probs"),
        (_sample([1, 2], [], []), "0 tokens"),
    ],
)
def test_a_malformed_trajectory_is_refused_by_name(sample: Sample, said: str) -> None:
    with pytest.raises(PlatformError, match=f"traj_1: .*{said}") as caught:
        _rows([sample], 2)
    assert caught.value.code == "internal"
