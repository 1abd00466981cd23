"""The attention predicate, against the pictures of the reference (golden examples G1 and G3)."""

import pytest
import torch

from services.common.model.index import RowIndex, visibility_mask


def _noisy_and_clean(num_tokens: int, block_size: int) -> RowIndex:
    """The reference's layout [noisy | clean]: one state of every block in front of the clean copy."""
    position = torch.arange(num_tokens).repeat(2)
    copy = torch.tensor([1, 0]).repeat_interleave(num_tokens)
    return RowIndex(position, position // block_size, copy, torch.zeros_like(position))


def _picture(index: RowIndex) -> list[str]:
    return [
        "".join("#" if seen else "." for seen in row)
        for row in visibility_mask(index, index).tolist()
    ]


@pytest.mark.parametrize(
    ("block_size", "rows"),
    [
        (
            4,
            [
                "####............",
                "....########....",
                "........####....",
                "........########",
            ],
        ),
        (
            2,
            [
                "##..............",
                "..##....##......",
                "....##..####....",
                "......########..",
                "........##......",
                "........####....",
                "........######..",
                "........########",
            ],
        ),
    ],
)
def test_the_predicate_draws_the_references_picture(block_size: int, rows: list[str]) -> None:
    picture = _picture(_noisy_and_clean(8, block_size))

    assert picture == [row for row in rows for _ in range(block_size)]


def test_states_of_one_block_and_other_documents_do_not_see_each_other() -> None:
    zeros = torch.zeros(4, dtype=torch.long)
    index = RowIndex(zeros, zeros, torch.tensor([1, 1, 2, 1]), torch.tensor([0, 0, 0, 1]))

    assert _picture(index) == ["##..", "##..", "..#.", "...#"]


def test_a_clean_document_is_block_causal() -> None:
    index = RowIndex.clean(6, 2)

    assert len(index) == 6
    assert _picture(index) == ["##....", "##....", "####..", "####..", "######", "######"]
    assert index.position.tolist() == [0, 1, 2, 3, 4, 5]
