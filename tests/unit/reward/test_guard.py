import pytest

from services.reward.guard import find_violation

REFUSED = [
    ("1" * 1501, "too_long"),
    ("(" * 30 + "1" + ")" * 30, "too_deep"),
    (",".join("1" * 130), "too_many_terms"),
    ("+".join("x" * 70), "too_many_terms"),
    ("9" * 400, "long_number"),
    ("=".join("x" * 20), "too_repetitive"),
    ("|" * 100, "too_repetitive"),
    (r"\begin{pmatrix}" + "1&" * 70 + r"\end{pmatrix}", "large_matrix"),
    (r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}^{100}", "large_matrix"),
    ("x^x^x^x^x^x^x^x", "large_exponent"),
    ("(10^{9999})^{9999}", "large_exponent"),
    (r"2^{9999\cdot 9999}", "large_exponent"),
    (r"\Gamma(10^8)", "large_factorial"),
    (r"(50\cdot 1000)!", "large_factorial"),
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
    (r"\sum_{i=1}^{1999} \sin(i)", "large_range"),
    (r"\prod_{i=1}^{1999} (i+x)", "large_range"),
    (r"\sum_{n=1}^{1999} n!", "large_range"),
    (r"\prod_{i=1}^{100}\prod_{j=1}^{100}(i+j)", "large_range"),
    (r"\det\begin{pmatrix}" + "a&" * 24 + r"\end{pmatrix}", "large_matrix"),
]


@pytest.mark.parametrize(("text", "rule"), REFUSED)
def test_expensive_expressions_are_refused_by_rule(text: str, rule: str) -> None:
    assert find_violation(text) == rule


@pytest.mark.parametrize(
    "text",
    [
        "72", r"3\sqrt{13}", "2^{2004}", r"\frac{1}{2004!}", "10!", "5!!", r"\binom{20}{10}",
        r"\sum_{k=0}^{n-1} F_k", "x^{800}",
        r"e^{-\frac{x^2}{100}}", r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"(1-\frac{1}{365})^{365}", "(x-1)(x-2)(x-3)(x-4)",
        "(a+b+c)^5", r"\frac{x^{100}-1}{x-1}", "x^8+x^7+x^6+x^5+x^4+x^3+x^2+x+1", r"\sin(\cos(\tan(x)))",
        r"\frac{\sqrt{\sqrt{11}+\sqrt{194}}}{15+2\sqrt{33}}", "(3^2)^{50}", r"\sqrt{2^{2007}}", "|x-1|+|x+1|",
        "9" * 399, "2^{2^{10}}", r"\prod_{k=1}^{100} k", r"\sum_{k=1}^{1999} k", r"\sum_{k=1}^{999} \frac{1}{k(k+1)}",
        r"\int_0^1 \frac{1}{1+x^2} dx", r"\sum_{n=1}^{\infty} \frac{1}{n^2}", r"\sum_{k=0}^{90} \cos k",
    ],
)  # fmt: skip
def test_ordinary_answers_pass(text: str) -> None:
    assert find_violation(text) == ""
