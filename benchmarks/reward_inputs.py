"""What the reward benchmarks grade: answers of public data sets, right and wrong, and answers made
to hurt.

`DIRL_TEST_DATA` names a directory with the data sets (`math500/test.jsonl`, `gsm8k/test.jsonl`, …);
see docs/benchmarks.md. The hostile answers need no data; the tests use them, too.
"""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from services.common.data.rows import iter_rows
from tests.support.hostile_text import CLASSES

Pair = tuple[str, str]
"""Reference answer, response."""
_SIX_BY_SIX = r"\\".join("&".join(f"a_{{{i}{j}}}" for j in range(6)) for i in range(6))


def data_dir() -> Path:
    """The directory of public data sets; ends the program without one."""
    if "DIRL_TEST_DATA" not in os.environ:
        sys.exit(
            "DIRL_TEST_DATA names no directory of public data sets; docs/benchmarks.md says which are needed."
        )
    return Path(os.environ["DIRL_TEST_DATA"])


def reference_answers_of(name: str) -> list[str]:
    """Reference answers of one set, in order."""
    return [row.answer for row in iter_rows(data_dir() / name) if row.answer is not None]


def realistic_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Solutions of MATH-500 and GSM8K with their own reference answer, and as many with another problem's;
    distinct, shuffled.
    """
    rng = random.Random(seed)
    solved = [
        (row.answer, row.completion)
        for name in ("math500/test.jsonl", "gsm8k/test.jsonl")
        for row in iter_rows(data_dir() / name)
        if row.answer is not None and row.completion is not None
    ]
    shifted = solved[1:] + solved[:1]
    wrong = [
        (reference_answer, response)
        for (reference_answer, _), (other, response) in zip(solved, shifted, strict=True)
        if reference_answer != other
    ]
    pairs = list(dict.fromkeys(solved + wrong))
    rng.shuffle(pairs)
    while len(pairs) < count:
        pairs.append((rng.choice(solved)[0], rng.choice(solved)[1]))
    return pairs[:count]


def distinct_pairs(seed: int = 0) -> list[Pair]:
    """Pairs of which no two share a reference answer or a response, half of them right, shuffled."""
    solutions: dict[str, str] = {}
    for name in ("math500/test.jsonl", "gsm8k/test.jsonl", "gsm8k/train.jsonl"):
        for row in iter_rows(data_dir() / name):
            if row.answer is not None and row.completion is not None:
                solutions.setdefault(row.answer, row.completion)
    rng = random.Random(seed)
    answers = list(solutions)
    rng.shuffle(answers)
    middle = len(answers) // 2
    right, wrong = answers[:middle], answers[middle:]
    pairs = [(answer, solutions[answer]) for answer in right]
    pairs += [
        (answer, solutions[other])
        for answer, other in zip(wrong, wrong[1:] + wrong[:1], strict=True)
    ]
    rng.shuffle(pairs)
    return pairs


def with_hostile(pairs: list[Pair], share: float, seed: int = 0) -> list[Pair]:
    """The pairs, a share of the responses replaced by hostile ones."""
    rng = random.Random(seed)
    hostile, mixed = hostile_responses(), list(pairs)
    for place in rng.sample(range(len(pairs)), round(share * len(pairs))):
        mixed[place] = (pairs[place][0], rng.choice(hostile))
    return mixed


def hostile_responses() -> list[str]:
    """More than two hundred responses that hang, exhaust or confuse naive verifiers."""
    answers = (*_expensive(), *_algebra(), *_long_runs())
    return [*(rf"so \boxed{{{answer}}}" for answer in answers), *_malformed()]


def _expensive() -> Iterator[str]:
    yield from (
        f"{base}^{{{power}}}"
        for base in (2, 9, 10)
        for power in ("10^9", "10^{10}", "9^{9^9}", "999999999")
    )
    yield from (
        f"{n}!"
        for n in ("1000000000", "999999999999", "100000000", "10^7", "20000", "(9!)", "((9!)!)")
    )
    yield from (
        "5!!!!!!",
        "9!!!!",
        "(((9!)!)!)!",
        "5^{5^{5^{5^5}}}",
        "9^9^9^9",
        "9**9**9**9",
        "2^{12!}",
        "x^{10^{12}}",
    )
    yield from (
        rf"\binom{{{n}}}{{{k}}}"
        for n, k in (("10^6", "5\\cdot 10^5"), ("10^{12}", "5"), ("1000000", "500000"))
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
    yield from (
        left * depth + "1" + right * depth
        for depth in (13, 200, 500)
        for left, right in ("()", "{}", "[]")
    )
    yield from (r"\frac{1}{" * depth + "x" + "}" * depth for depth in (13, 60, 1000))
    yield from (r"\sqrt{" * depth + "2" + "}" * depth for depth in (12, 60, 500))
    yield from ("+".join(f"x_{{{n}}}" for n in range(terms)) for terms in (150, 300, 2000))
    yield from (",".join(str(n) for n in range(terms)) for terms in (100, 130, 5000))
    yield from (
        rf"({'+'.join('xyzuvw'[:n])})^{{{power}}}"
        for n in (2, 3, 5)
        for power in (30, 200, 900, 20_000)
    )
    yield from (
        r"\begin{pmatrix}"
        + r"\\".join("&".join(f"a_{{{i}{j}}}" for j in range(n)) for i in range(n))
        + r"\end{pmatrix}"
        for n in (5, 8, 9, 30)
    )
    yield from (
        r"\det" + matrix
        for matrix in (r"\begin{pmatrix}" + r"\\".join(["a&b&c&d&e&f&g"] * 7) + r"\end{pmatrix}",)
    )
    yield from (
        r"\int_0^1 \frac{\sin(x^x)}{\log(1+x^{x})} dx", r"\int e^{e^{e^x}} dx", r"\lim_{n\to\infty} (1+1/n)^{n^n}",
        r"\int_{-\infty}^{\infty} \frac{\cos(x^3)}{x^{11}+x^7+1} dx", r"\frac{d^{50}}{dx^{50}} x^{x^x}",
        r"[2^{1/2^{1000}},\infty)", r"\frac{1-x^{800}}{1-x}", r"\sin(" * 11 + "x" + ")" * 11, r"\log_2(3^{20000})",
        r"x^{x^{x^{x^x}}}", r"\sqrt[9999999]{2}", r"(1+\sqrt{2})^{5000}", r"\zeta(10^{10})", r"\Gamma(10^8)",
        r"10^{-10^9}", r"\lfloor 10^{10^8} \rfloor", r"7^{7^{7}}\bmod 10", r"\prod_{p}\frac{1}{1-p^{-2}}",
        "i^{i^{i^{i}}}", r"\pi^{\pi^{\pi^\pi}}",
    )  # fmt: skip
    yield from (
        "".join(pair)
        for pair in (("x" * 1400, ""), ("1 " * 700, ""), ("1_" * 700, "0"), ("a=" * 600, "1"))
    )


def _algebra() -> Iterator[str]:
    yield from (
        r"\left(x+\frac{1}{x}\right)^{1000}", r"(1+x)^{500}(1-x)^{500}", r"\prod_{k=1}^{50}(1+x^k)",
        r"(a+b)^{99}(c+d)^{99}", r"((x+1)^{30}+1)^{30}", r"\sum_{k=0}^{1000} x^k",
        r"\sum_{i=1}^{50}\sum_{j=1}^{50}\sum_{k=1}^{50} ijk", r"\sum_{k=1}^\infty \frac{1}{k^3+k+1}",
        r"\int_0^1 x^x dx", r"\int \frac{1}{x^{20}+1}dx", r"\int \sqrt{\tan x} dx",
        r"\int_0^{\infty} \frac{\sin x}{x^3+1} dx", r"\lim_{x\to 0}\frac{\sin(\tan x)-\tan(\sin x)}{x^7}",
        "+".join(r"\sqrt{2+"*9), r"\sin(1)^{\sin(2)^{\sin(3)}}", "+".join(rf"\arctan({i}x)" for i in range(1,25)),
        r"\log(\log(\log(10^{300})))", r"\frac{x^{300}-1}{x^{299}+1}", r"123456789012345678901234567890^{500}",
        r"12345^{12345}", r"7^{19999}", r"\frac{1}{7^{15000}}", r"19999^{19999}", r"3^{20000}\cdot 2^{20000}",
        r"\sqrt{10^{2000}+1}", r"\sqrt{"+"1234567891"*30+"}", r"x^{1/99999}", r"\sqrt[10007]{3}", r"\{x: x^7-x+1=0\}",
        r"x^7-3x+1>0", r"\sin(x)>\cos(x)", "+".join(f"|x-{i}|" for i in range(10)), r"\max(a,b,c,d,e,f,g,h)",
        r"\lfloor\lfloor\lfloor x\rfloor^{20}\rfloor^{20}\rfloor",
        r"\begin{pmatrix}a&b&c\\d&e&f\\g&h&k\end{pmatrix}^{100}",
        r"\begin{pmatrix}" + _SIX_BY_SIX + r"\end{pmatrix}^{-1}",
        r"\det\begin{pmatrix}" + _SIX_BY_SIX + r"\end{pmatrix}",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{5000}",
        r"\cdot".join(rf"\tan\frac{{{k}\pi}}{{31}}" for k in range(1,31)),
        "+".join(rf"e^{{{k}i\pi/17}}" for k in range(1,17)), r"\frac{1}{1+"*11+"x"+"}"*11,
        r"\frac{1}{1+\frac{2}{3+"*5+"7"+"}}"*5, "abcdefghijklmnopqrstuvwxyz",
        r"\frac{(x+1)^{10}}{(y+1)^{10}(z+1)^{10}}", r"(x+y+z+w)^{10}", r"x^{y^{z^{w^{v}}}}",
        r"\sum_{n=1}^{1999}\frac{1}{n}", r"\prod_{n=1}^{1999} n", r"\sum_{n=1}^{2000} n!", "4999!",
        r"\frac{5000!}{4999!}", r"\binom{99999}{49999}", "1000!!", r"\zeta(3)+\zeta(5)",
        r"\frac{d}{dx}\frac{d}{dx}\frac{d}{dx} x^{x^x}", "((((9^9)^9)^9)^9)^9", r"(((((9^9)^9)^9)^9)^9)^9",
        r"(10^{9999})^{9999}", r"2^{9999\cdot 9999}", r"2^{(100)(100)(100)}", r"(50\cdot 1000)!", r"(4999+4999)!",
        r"\prod_{i=1}^{1000}\prod_{j=1}^{1000}(i+j)", r"\int_0^1\int_0^1\int_0^1 \frac{1}{1+xyz} dxdydz",
        r"\int_0^{\pi} \sin^{50}(x)\cos^{50}(x) dx", r"\sum_{k=1}^{100}\sin^{k}(x)",
        r"\frac{\sin^{40}x-\cos^{40}x}{\tan x}", r"\sqrt{x+\sqrt{y+\sqrt{z+\sqrt{w}}}}",
        r"(\sqrt{2}+\sqrt{3}+\sqrt{5}+\sqrt{7})^{12}", r"\frac{1}{\sqrt2+\sqrt3+\sqrt5+\sqrt7+\sqrt{11}}",
        r"\sqrt[3]{2+\sqrt{5}}+\sqrt[3]{2-\sqrt{5}}", r"x^{2000}+x^{1999}+1", r"\frac{x^{100}+y^{100}}{x+y}",
        r"(x^{50}+1)(x^{49}+1)(x^{48}+1)", "=".join(["x"]*30), ",".join(rf"\sqrt{{{i}}}" for i in range(60)),
        r"\{"+",".join(f"({i},{i+1})" for i in range(40))+r"\}", r"\cup".join(f"({2*i},{2*i+1})" for i in range(40)),
        r"\cup".join(rf"(\sqrt{{{2*i}}},\sqrt{{{2*i+1}}})" for i in range(20)),
        r"\cos(\cos(\cos(\cos(\cos(\cos(x))))))", r"\log_{\log_{2}3}{\log_{3}5}", r"e^{e^{e^{e}}}",
        r"\pi^{\pi^{100}}", r"\tan(10^{15000})", r"\sin(2^{19999})", r"(1+\frac{1}{n})^{1000}",
        r"(x-1)(x-2)(x-3)(x-4)(x-5)(x-6)(x-7)(x-8)(x-9)(x-10)(x-11)(x-12)",
        "".join(f"(x_{i}+y_{i})" for i in range(9)), "".join(f"({a}+1)" for a in "abcdefghjklmn"),
        r"\frac{"+"+".join(f"{a}^2" for a in "abcdefgh")+"}{"+"+".join("abcdefgh")+"}",
        r"0.\overline{"+"142857"*40+"}", r"1\pm2\pm3\pm4\pm5\pm6\pm7\pm8", r"\pm\sqrt{\pm\sqrt{\pm\sqrt{2}}}",
        r"x \equiv 3 \pmod{10^{500}}", r"\text{lcm}(1,2,3,4,5,6,7,8,9,10,11,12)", r"7^{10^4} \bmod 13",
        r"\frac{2^{10000}-1}{2^{9999}-1}", "1/"*100+"1", "2^"*6+"x", "x/"*300+"x", "-"*150+"1", r"\sqrt{1"*3+"}"*3,
        "a_{b_{c_{d_{e_{f}}}}}", "f(g(h(f(g(h(x))))))", r"\left\{\begin{array}{l}x+y=1\\x^5-y=3\end{array}\right.",
        r"x^{17}-3x^{11}+5x-1=0", r"\sqrt{x^2+1}+\sqrt{x^4+1}+\sqrt{x^6+1}=3",
    )  # fmt: skip


def _long_runs() -> Iterator[str]:
    """Yield answers just below the limit of length that make a backtracking pattern run for minutes."""
    return (f"1{one * (1490 // len(one))}x" for one in CLASSES.values())


def _malformed() -> Iterator[str]:
    yield from (
        rf"\boxed{{{text}}}"
        for text in ("", " ", r"\text{}", "$", "$$", r"\\", "{}", r"\frac", r"\frac{1}", r"\sqrt")
    )
    yield from (
        rf"\boxed{{{text}}}"
        for text in (
            r"\frac{1}{0}",
            "1/0",
            r"\log 0",
            r"\tan\frac{\pi}{2}",
            "0^0",
            r"\infty-\infty",
        )
    )
    yield from (r"\boxed{" * count for count in (1, 100, 5000))
    yield from (r"\boxed{1} " * count for count in (100, 20_000))
    yield from (
        "$" * 100_000,
        r"\[" * 50_000,
        "{" * 50_000,
        "}" * 50_000,
        "(" * 50_000,
        "\\" * 50_001,
        "x" * 1_000_000,
    )
    yield from (
        "<think>" * 1000,
        "</think>" * 1000,
        "<think>" * 500 + "</think>" * 500 + r"\boxed{1}",
        "<answer>" * 5000,
    )
    yield from (
        "answer is " * 20_000,
        "#### " * 20_000,
        "Answer: " * 20_000,
        "1," * 50_000,
        "1.2.3." * 20_000,
    )
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
        rf"\boxed{{{text}}}"
        for text in ("__import__('os').system('true')", "exec('1')", "lambda: 0", "os._exit(1)")
    )
    yield from (
        rf"\boxed{{{text}}}"
        for text in (
            "\ud800",
            "\x00",
            "🙂",
            "١٢٣",
            "Ⅻ",
            "½⅓¼",
            "²³⁴",
            "√√√√2",
            "∑∏∫",
            "\u0301" * 300,
        )
    )
    yield from (
        rf"\boxed{{{text}}}"
        for text in (r"\input{/etc/passwd}", r"\def\x{\x}\x", r"\newcommand{\a}{\a\a}\a", "%" * 500)
    )
    yield from (
        rf"\boxed{{{text}}}"
        for text in ("<" * 700, "=" * 700, "^" * 700, "_" * 700, "&" * 700, "!" * 700, "|" * 700)
    )
    yield from (
        rf"\boxed{{{text}}}"
        for text in (
            r"\{" * 300,
            r"\left(" * 200,
            r"\text{" * 200,
            "x^" * 500,
            "1e9999",
            "0x" + "f" * 900,
        )
    )
