import re
from pathlib import Path

import pytest

from services.common.data.arithmetic import make_arithmetic
from services.common.data.boxed import last_box
from services.common.data.rows import Row, check_file, read_rows
from services.common.errors import PlatformError


def operands(row: Row) -> frozenset[int]:
    return frozenset(int(number) for number in re.findall(r"\d+", row.messages[0].content))


def test_train_and_test_share_no_pair_of_operands(tmp_path: Path) -> None:
    files = make_arithmetic(tmp_path, seed=3, num_train=6000, num_test=400)
    train, test = list(read_rows(files.train, "rl")), list(read_rows(files.test, "rl"))
    assert (len(train), len(test)) == (6000, 400)
    assert not {operands(row) for row in train} & {operands(row) for row in test}


def test_answers_are_right_and_boxed(tmp_path: Path) -> None:
    files = make_arithmetic(tmp_path, seed=0, num_train=500, num_test=10)
    for row in read_rows(files.train, "sft"):
        completion = row.completion or ""
        left, right = re.match(r"(\d+)\+(\d+)=\\boxed", completion).groups()  # type: ignore[union-attr]
        box = last_box(completion)
        assert box is not None
        assert box.content == row.answer
        assert int(box.content) == int(left) + int(right)
        assert operands(row) == {int(left), int(right)}


def test_texts_are_short_and_plain(tmp_path: Path) -> None:
    report = check_file(make_arithmetic(tmp_path, seed=1, num_train=3000, num_test=10).train)
    assert report.usable_for("sft")
    assert report.usable_for("rl")
    assert report.longest_prompt_chars <= 40
    assert report.longest_completion_chars <= 24


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    first, second, third = (
        make_arithmetic(tmp_path / name, seed=seed, num_train=50, num_test=20)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first.train.read_bytes() == second.train.read_bytes()
    assert first.test.read_bytes() == second.test.read_bytes()
    assert first.train.read_bytes() != third.train.read_bytes()


def test_ids_are_unique_even_when_pairs_repeat(tmp_path: Path) -> None:
    files = make_arithmetic(tmp_path, seed=0, num_train=5000, num_test=1)
    rows = list(read_rows(files.train, "rl"))
    assert len({row.row_id for row in rows}) == 5000


@pytest.mark.parametrize(("num_train", "num_test"), [(0, 5), (5, 0), (-1, 1)])
def test_empty_files_are_refused(tmp_path: Path, num_train: int, num_test: int) -> None:
    with pytest.raises(PlatformError, match="both must be at least 1"):
        make_arithmetic(tmp_path, seed=0, num_train=num_train, num_test=num_test)
