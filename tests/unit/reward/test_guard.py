import pytest

from services.reward.guard import refuse


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1" * 1501, "too_long"),
        ("(" * 30 + "1" + ")" * 30, "too_deep"),
        (",".join("1" * 130), "too_many_terms"),
        ("+".join("x" * 210), "too_many_terms"),
        ("9" * 400, "long_number"),
        (r"\begin{pmatrix}" + "1&" * 70 + r"\end{pmatrix}", "large_matrix"),
        ("2^{10^9}", "large_exponent"),
        ("10^{100000}", "large_exponent"),
        ("9^{9^{9^9}}", "large_exponent"),
        ("9^9^9^9", "large_exponent"),
        ("5^{5^{5^{5^5}}}", "large_exponent"),
        (r"\gcd(2^{10^{10}}, 6)", "large_exponent"),
        ("2^(10^10)", "large_exponent"),
        ("2^{12!}", "large_exponent"),
        ("1000000000!", "large_factorial"),
        ("5!!!!!!", "large_factorial"),
        ("(((9!)!)!)!", "large_factorial"),
        ("10^7!", "large_factorial"),
        (r"\binom{1000000}{500000}", "large_binomial"),
        (r"\binom{10^{12}}{3}", "large_binomial"),
        (r"\sum_{i=1}^{10000}\sin(i)", "large_range"),
        (r"\prod_{i=1}^{10^3}(i+x)", "large_range"),
    ],
)
def test_expensive_expressions_are_refused_by_rule(text: str, rule: str) -> None:
    assert refuse(text) == rule


@pytest.mark.parametrize(
    "text",
    [
        "72", r"3\sqrt{13}", "2^{2004}", r"\frac{1}{2004!}", "10!", "5!!", r"\binom{20}{10}",
        r"\sum_{k=0}^{n-1} F_k", "x^{800}",
        r"e^{-\frac{x^2}{100}}", r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        "9" * 399, "2^{2^{10}}", r"\prod_{k=1}^{100} k",
    ],
)  # fmt: skip
def test_ordinary_answers_pass(text: str) -> None:
    assert refuse(text) == ""
