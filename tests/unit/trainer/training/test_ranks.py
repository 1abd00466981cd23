"""How rows are shared between ranks; what they do together is tested with real processes."""

import pytest

from services.trainer.training.ranks import ALONE, Ranks


@pytest.mark.parametrize(
    ("size", "shares"),
    [
        (1, ["abcde"]),
        # Every rank has equally many passes; the last of some counts for nothing.
        (2, ["ace", "bd."]),
        (3, ["ad", "be", "c."]),
        (6, ["a", "b", "c", "d", "e", "."]),
    ],
)
def test_every_row_counts_on_one_rank_and_all_ranks_have_as_many(
    size: int, shares: list[str]
) -> None:
    given = [Ranks(rank, size).share_rows("abcde") for rank in range(size)]

    assert ["".join(row if counts else "." for row, counts in share) for share in given] == shares
    assert {row for share in given for row, counts in share if not counts} <= {"a"}


def test_a_single_rank_talks_to_itself() -> None:
    assert ALONE.all_gather(7) == [7]
    assert ALONE.broadcast("call") == "call"
    ALONE.leave()
