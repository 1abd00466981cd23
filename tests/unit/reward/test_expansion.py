import pytest

from services.reward.expansion import MAX_SIZE, expanded_terms, tallest_power


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("x", 1),
        ("-x+1", 2),
        ("a+b-c", 3),
        ("(x+1)(x+2)(x+3)", 8),
        ("(x+y)^{10}", 11),
        ("(x+y+z)**3", 10),
        ("2(x+y)^2+z", 4),
        ("((x+1)^2+1)^2", 10),
        (r"\frac{(x+1)^{2}}{(y+1)^{3}}", 12),
        (r"(1-\frac{1}{365})^{365}", 1),
        (r"\sqrt{x+y+z}", 1),
        ("x^{n+1}", 1),
        ("(a+b)^{999999999}", MAX_SIZE),
        ("(x+1", 2),
        ("", 1),
    ],
)
def test_terms_after_expansion(text: str, terms: int) -> None:
    assert expanded_terms(text) == terms


@pytest.mark.parametrize(
    ("text", "power"),
    [
        ("x", 1),
        ("x^3", 3),
        ("(x^3)^4", 12),
        ("((9^9)^9)^{9}", 729),
        ("(x+1)^{2004}", 2004),
        ("2^{(10^5)}", 5),
    ],
)
def test_powers_of_powers_multiply(text: str, power: int) -> None:
    assert tallest_power(text) == power
