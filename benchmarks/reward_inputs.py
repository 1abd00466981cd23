"""What the reward benchmarks judge: answers of public data sets, right and wrong, and answers made to hurt.

`DIRL_TEST_DATA` names a directory with the data sets (`math500/test.jsonl`, `gsm8k/test.jsonl`, …); see
docs/benchmarks.md. The hostile answers need no data; the tests use them, too.
"""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from services.common.data.rows import iter_rows

Pair = tuple[str, str]
"""Gold answer, response."""


def data_dir() -> Path:
    """The directory of public data sets; ends the program without one."""
    if "DIRL_TEST_DATA" not in os.environ:
        sys.exit("DIRL_TEST_DATA names no directory of public data sets; docs/benchmarks.md says which are needed.")
    return Path(os.environ["DIRL_TEST_DATA"])


def golds_of(name: str) -> list[str]:
    """Gold answers of one set, in order."""
    return [row.answer for row in iter_rows(data_dir() / name) if row.answer is not None]


def realistic_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Solutions of MATH-500 and GSM8K with their own gold, and as many with another problem's; distinct, shuffled."""
    rng = random.Random(seed)
    solved = [
        (row.answer, row.completion)
        for name in ("math500/test.jsonl", "gsm8k/test.jsonl")
        for row in iter_rows(data_dir() / name)
        if row.answer is not None and row.completion is not None
    ]
    shifted = solved[1:] + solved[:1]
    wrong = [(gold, response) for (gold, _), (other, response) in zip(solved, shifted, strict=True) if gold != other]
    pairs = list(dict.fromkeys(solved + wrong))
    rng.shuffle(pairs)
    while len(pairs) < count:
        pairs.append((rng.choice(solved)[0], rng.choice(solved)[1]))
    return pairs[:count]


def with_hostile(pairs: list[Pair], share: float, seed: int = 0) -> list[Pair]:
    """The pairs, a share of the responses replaced by hostile ones."""
    rng = random.Random(seed)
    hostile, mixed = hostile_responses(), list(pairs)
    for place in rng.sample(range(len(pairs)), round(share * len(pairs))):
        mixed[place] = (pairs[place][0], rng.choice(hostile))
    return mixed


def hostile_responses() -> list[str]:
    """More than two hundred responses that hang, exhaust or confuse naive verifiers."""
    return [*(rf"so \boxed{{{answer}}}" for answer in _expensive()), *_malformed()]


def _expensive() -> Iterator[str]:
    yield from (f"{base}^{{{power}}}" for base in (2, 9, 10) for power in ("10^9", "10^{10}", "9^{9^9}", "999999999"))
    yield from (f"{n}!" for n in ("1000000000", "999999999999", "100000000", "10^7", "20000", "(9!)", "((9!)!)"))
    yield from ("5!!!!!!", "9!!!!", "(((9!)!)!)!", "5^{5^{5^{5^5}}}", "9^9^9^9", "9**9**9**9", "2^{12!}", "x^{10^{12}}")
    yield from (
        rf"\binom{{{n}}}{{{k}}}" for n, k in (("10^6", "5\\cdot 10^5"), ("10^{12}", "5"), ("1000000", "500000"))
    )
    yield from (rf"\gcd(2^{{{n}}}, 6)" for n in ("10^{10}", "99999999"))
    yield from (
        rf"\{operator}_{{i=1}}^{{{bound}}} {term}"
        for operator in ("sum", "prod")
        for bound in ("100000", "10^7", "1999", "10^{100}")
        for term in (r"\sin(i)", "(i+x)", r"\frac{1}{i^2+x}", "i!")
    )
    yield from ("9" * digits for digits in (399, 400, 1400, 5000, 100_000))
    yield from ("0." + "3" * digits for digits in (300, 1400, 100_000))
    yield from (left * depth + "1" + right * depth for depth in (13, 200, 500) for left, right in ("()", "{}", "[]"))
    yield from (r"\frac{1}{" * depth + "x" + "}" * depth for depth in (13, 60, 1000))
    yield from (r"\sqrt{" * depth + "2" + "}" * depth for depth in (12, 60, 500))
    yield from ("+".join(f"x_{{{n}}}" for n in range(terms)) for terms in (150, 300, 2000))
    yield from (",".join(str(n) for n in range(terms)) for terms in (100, 130, 5000))
    yield from (rf"({'+'.join('xyzuvw'[:n])})^{{{power}}}" for n in (2, 3, 5) for power in (30, 200, 900, 20_000))
    yield from (
        r"\begin{pmatrix}"
        + r"\\".join("&".join(f"a_{{{i}{j}}}" for j in range(n)) for i in range(n))
        + r"\end{pmatrix}"
        for n in (5, 8, 9, 30)
    )
    yield from (
        r"\det" + matrix for matrix in (r"\begin{pmatrix}" + r"\\".join(["a&b&c&d&e&f&g"] * 7) + r"\end{pmatrix}",)
    )
    yield from (
        r"\int_0^1 \frac{\sin(x^x)}{\log(1+x^{x})} dx", r"\int e^{e^{e^x}} dx", r"\lim_{n\to\infty} (1+1/n)^{n^n}",
        r"\int_{-\infty}^{\infty} \frac{\cos(x^3)}{x^{11}+x^7+1} dx", r"\frac{d^{50}}{dx^{50}} x^{x^x}",
        r"[2^{1/2^{1000}},\infty)", r"\frac{1-x^{800}}{1-x}", r"\sin(" * 11 + "x" + ")" * 11, r"\log_2(3^{20000})",
        r"x^{x^{x^{x^x}}}", r"\sqrt[9999999]{2}", r"(1+\sqrt{2})^{5000}", r"\zeta(10^{10})", r"\Gamma(10^8)",
        r"10^{-10^9}", r"\lfloor 10^{10^8} \rfloor", r"7^{7^{7}}\bmod 10", r"\prod_{p}\frac{1}{1-p^{-2}}",
        "i^{i^{i^{i}}}", r"\pi^{\pi^{\pi^\pi}}",
    )  # fmt: skip
    yield from ("".join(pair) for pair in (("x" * 1400, ""), ("1 " * 700, ""), ("1_" * 700, "0"), ("a=" * 600, "1")))


def _malformed() -> Iterator[str]:
    yield from (
        rf"\boxed{{{text}}}" for text in ("", " ", r"\text{}", "$", "$$", r"\\", "{}", r"\frac", r"\frac{1}", r"\sqrt")
    )
    yield from (
        rf"\boxed{{{text}}}"
        for text in (r"\frac{1}{0}", "1/0", r"\log 0", r"\tan\frac{\pi}{2}", "0^0", r"\infty-\infty")
    )
    yield from (r"\boxed{" * count for count in (1, 100, 5000))
    yield from (r"\boxed{1} " * count for count in (100, 20_000))
    yield from ("$" * 100_000, r"\[" * 50_000, "{" * 50_000, "}" * 50_000, "(" * 50_000, "\\" * 50_001, "x" * 1_000_000)
    yield from (
        "<think>" * 1000,
        "</think>" * 1000,
        "<think>" * 500 + "</think>" * 500 + r"\boxed{1}",
        "<answer>" * 5000,
    )
    yield from ("answer is " * 20_000, "#### " * 20_000, "Answer: " * 20_000, "1," * 50_000, "1.2.3." * 20_000)
    yield from (
        "\ud800",
        "\x00\x00",
        "\u202e\u2066" * 500,
        "🙂" * 50_000,
        "\n" * 100_000,
        "\t" * 50_000,
        "\ufeff" * 1000,
    )
    yield from (
        rf"\boxed{{{text}}}" for text in ("__import__('os').system('true')", "exec('1')", "lambda: 0", "os._exit(1)")
    )
    yield from (
        rf"\boxed{{{text}}}"
        for text in ("\ud800", "\x00", "🙂", "١٢٣", "Ⅻ", "½⅓¼", "²³⁴", "√√√√2", "∑∏∫", "\u0301" * 300)
    )
    yield from (
        rf"\boxed{{{text}}}"
        for text in (r"\input{/etc/passwd}", r"\def\x{\x}\x", r"\newcommand{\a}{\a\a}\a", "%" * 500)
    )
    yield from (
        rf"\boxed{{{text}}}" for text in ("<" * 700, "=" * 700, "^" * 700, "_" * 700, "&" * 700, "!" * 700, "|" * 700)
    )
    yield from (
        rf"\boxed{{{text}}}"
        for text in (r"\{" * 300, r"\left(" * 200, r"\text{" * 200, "x^" * 500, "1e9999", "0x" + "f" * 900)
    )
