from fractions import Fraction

import pytest

from services.common.answers.number_words import parse_words


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("forty-two", 42), ("Zero", 0), ("one hundred and five", 105), ("two thousand three hundred", 2300),
        ("three million", 3_000_000), ("nineteen", 19), ("17", 17),
    ],
)  # fmt: skip
def test_numbers_in_words_have_their_value(words: str, value: int) -> None:
    assert parse_words(words) == value


def test_fractions_in_words_have_their_value() -> None:
    assert parse_words("two-thirds") == Fraction(2, 3)


@pytest.mark.parametrize(
    "words", ["", "hundred", "ten two", "twenty ten", "two and", "one way", "third", "forty two x"]
)
def test_other_words_are_no_numbers(words: str) -> None:
    assert parse_words(words) is None
