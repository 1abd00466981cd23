import pytest

from services.common.answers.units import canonical, has_unit_conflict, split_unit


@pytest.mark.parametrize(
    ("answer", "body", "unit"),
    [
        (r"5\text{ cm}", "5", "cm"),
        (r"9.8 \mathrm{m} \mathrm{s}^{-2}", "9.8", "m s^-2"),
        (r"72 \text{km}\cdot\text{h}^{-1}", "72", "hour^-1 km"),
        ("72 km/h", "72", "hour^-1 km"),
        ("40 miles per hour", "40", "hour^-1 mile"),
        (r"8 \pi cm^3", r"8 \pi", "cm^3"),
        ("6 red marbles", "6", "marbles red"),
        (r"2^n\text{ ways}", "2^n", "way"),
    ],
)
def test_the_trailing_unit_is_split_off(answer: str, body: str, unit: str) -> None:
    before, found = split_unit(answer)
    assert (before.strip(), found) == (body, unit)


@pytest.mark.parametrize(
    "answer",
    [
        r"n \text{ odd}",
        r"6 \text{ or more}",
        "2mg",
        "2g/h",
        "3ab",
        "x^2 y",
        r"3\mathrm{i}",
        "7 mod 12",
        r"\text{cm}",
    ],
)
def test_what_is_part_of_the_answer_is_no_unit(answer: str) -> None:
    assert split_unit(answer) == (answer, "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m/s^2", "metres per second squared"),
        ("square feet", "ft^2"),
        ("mph", "mi/h"),
        ("degrees Celsius", "celsius"),
    ],
)
def test_writings_of_one_unit_are_one(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        ("cm", "m", True), ("cm^2", "cm", True), ("m s^-1", "m s^-2", True), ("celsius", "fahrenheit", True),
        ("cm", "cm", False), ("", "cm", False), ("apples", "cm", False), ("degree", "celsius", False),
    ],
)  # fmt: skip
def test_only_two_known_measures_contradict_each_other(
    first: str, second: str, conflict: bool
) -> None:
    assert has_unit_conflict(first, second) is conflict
