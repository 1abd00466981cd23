r"""Formulas compared by type: what a reference answer accepts and what it does not."""

import pytest

from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.reward.formulas.comparison import is_equal
from services.reward.formulas.echoes import has_echo
from services.reward.formulas.nodes import UndecidedError, UnreadableError
from services.reward.formulas.parser import parse


def accepts(reference: str, answer: str, kind: AnswerType | None = None) -> bool:
    return is_equal(parse(reference), parse(answer), kind or infer_answer_type(reference))


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"\frac{R}{r}", r"\frac{R^2}{Rr}"), ("y^2", "y(y)"), (r"5e^{\frac{t}{8}}", "5e^{0.125t}"),
        (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1"), (r"\frac{n!}{(n-1)!}", "n"),
        (r"\binom{n}{2}2^{n-2}", "n(n-1)2^{n-3}"), (r"\frac{\ln 3}{\ln 2}", r"\log_2 3"), (r"\log 100", "2"),
        ("(-1)^n", r"\cos(n\pi)"), ("2i", r"\sqrt{-4}"), (r"e^{i\pi}", "-1"), (r"\frac12x", "1/2x"),
        (r"\sin^2x", "1-\\cos^2 x"), ("|x|", r"\sqrt{x^2}"), ("f(x+1)+1", "1+f(1+x)"), ("3.14159265", r"\pi"),
        (r"\vec a\times\vec b", r"-\vec b\times\vec a"), (r"\angle ABC", r"\angle CBA"), ("2^{3^2}", "2^3^2"),
        ("10", "C(5,2)"), ("20", "P(5,2)"), (r"0.\overline{3}", r"\frac13"), (r"\infty", r"+\infty"),
        ("2^{100000}-1", r"2\cdot2^{99999}-1"), (r"\lfloor x\rfloor+1", r"\lfloor x+1\rfloor"),
        (r"2\cdot30^{\circ}", r"60^\circ"), (r"\angle BEA_{1}+1", r"1+\angle B E A_{1}"),
    ],
)  # fmt: skip
def test_equal_expressions_are_accepted(reference: str, answer: str) -> None:
    assert accepts(reference, answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"\frac{R}{r}", r"\frac{r}{R}"), ("R", "r"), ("aA", "a^2"), (r"\lambda", r"\Lambda"), (r"\phi", r"\Phi"),
        (r"\gamma", "g_9"), ("f^{-1}(x)", r"\frac{1}{f(x)}"), ("f''(x)", "f'(x)"), ("f'(3)", "f(3)"), ("A^T", "A"),
        (r"\vec a\cdot\vec b", r"\vec a\times\vec b"), (r"\angle ABC", r"\angle ACB"), ("II", "I I"),
        (r"e^{\pi\sqrt{163}}", "262537412640768744"), ("2^{100000}-1", "2^{100000}-2"), ("10^{-20}", "10^{-21}"),
        ("x", r"\sqrt{x^2}"), (r"\frac{dy}{dx}", r"\frac{dx}{dy}"), (r"\lfloor x\rfloor+1", r"\lceil x\rceil"),
        ("listen", "silent"), ("3", r"\tan\frac{\pi}{2}"), (r"\infty", r"-\infty"), ("10", "C(5,3)+1"),
    ],
)  # fmt: skip
def test_different_expressions_are_not(reference: str, answer: str) -> None:
    assert not accepts(reference, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        # A name is a label; all sides after it must agree.
        ("42", "x=42", True), ("42", "42=x", True), ("42", "x=40+2=42", True), ("42", "x=43=42", False),
        ("42", "1=42", False),
        ("42", "|AB|=42", True), ("42", "m+n=42", True), ("42", "x+y=42", False), ("5", "x^2+y=5", False),
        ("4\\pi", "A=\\pi r^2=4\\pi", True), ("5", r"23\bmod6=5", True), ("x=5", "y=5", False), ("x=5", "5", True),
        ("f(x)=2x+3", "y=2x+3", True), ("f(x)=2x+3", "g(x)=2x+3", False), ("x=-1", "x+1=0", True),
        ("0.611", r"\frac{11}{18}\approx0.611", True), (r"\frac{11}{18}", r"\frac{11}{18}\approx0.611", True),
        # Equations with variables, up to a constant factor.
        ("x^2+y^2=1", "2=2y^2+2x^2", True), ("x^2+y^2=1", "x^2-y^2=1", False), ("y=2x+3", "2x-y+3=0", True),
        (r"\frac xa+\frac yb=1", "bx+ay=ab", True), ("x^2-2x+5=0", "x^2-2x+6=0", False), ("x^2+9=0", "1=2", False),
        ("x^2-3x+2=0", "x=1,x=2", False), (r"\sqrt x=-2", "x^2+1=0", False), (r"y=\sqrt x", r"2y-2\sqrt x=0", True),
        # Derivatives are symbols of their own.
        ("y'=2x", "y=2x", False), ("y'=2x", r"\frac{dy}{dx}=2x", True), ("y''=2x", "y'=2x", False),
        ("y''+y=0", "y''=-y", True), ("y''-y=0", "0=0", False), (r"\frac{dy}{dx}=2x", r"\frac{dy}{dt}=2x", False),
        # Equations between constants, by both sides.
        ("2+3=5", "2+3=6", False), (r"\log_2(16)=4", r"\log_2(16)=9", False), ("2+3=5", "5=2+3", True),
        ("2+3=5", "5", False),
        ("y>2x+1", "2y>4x+2", True), ("y>2x+1", r"y\ge2x+1", False), ("y>2x", "-y>-2x", False),
        ("3x+4y=12", "3x+4y>12", False),
    ],
)  # fmt: skip
def test_relations_are_compared_as_relations(reference: str, answer: str, expected: bool) -> None:
    assert accepts(reference, answer) is expected


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("x=1,y=2", "y=2,x=1", True), ("x=1,y=2", "(1,2)", True), ("x=1,y=2", "(2,1)", False),
        ("x=1,y=2", "x=2,y=1", False),
        ("x=1,y=2,z=3", "3,2,1", False), ("(x,y)=(1,2)", "x=1,y=2", True), ("(1,2)", "x=1,y=2", True),
        ("(1,2)", "y=2,x=1", True), ("(1,2)", "A(1,2)", True), ("(1,2)", r"\{1,2\}", False), ("(1,2)", "(2,1)", False),
        ("1,2", "x=1,x=2", True), ("1,2", "x_1=2,x_2=1", True), ("1,2", "x=1,y=2", False),
        ("1,2", r"x\in\{2,1\}", True),
        ("1,1,2", "1,2", False), ("p=5,q=2;p=7,q=2", "(7,2),(5,2)", True), (r"\pm2", "2,-2", True),
        (r"\pm2", "2", False),
        (r"\pm1\pm i", "1+i,1-i,-1+i,-1-i", True), (r"3\pm2\mp1", "4,2", True),
        (r"\frac{3\pm\sqrt5}{2}", r"\frac{3-\sqrt5}{2},\frac{3+\sqrt5}{2}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}3\\4\end{pmatrix}=\begin{pmatrix}1\\2\end{pmatrix}",
        False),
        (r"\begin{pmatrix}2\\4\end{pmatrix}", r"2\begin{bmatrix}1\\2\end{bmatrix}", True),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
    ],
)  # fmt: skip
def test_several_values_keep_their_names_and_order(
    reference: str, answer: str, expected: bool
) -> None:
    assert accepts(reference, answer) is expected


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        (r"(2,\infty)", "2<x", True), (r"(2,\infty)", r"2\le x", False), ("(-1,1)", "|x|<1", True),
        ("(-1,1)", "x^2<1", False),
        (r"(-\infty,-1)\cup(1,\infty)", "|x|>1", True), (r"x<0\lor x>5", r"(5,\infty)\cup(-\infty,0)", True),
        (r"\{x:x>0\}", r"(0,\infty)", True), (r"\{x\in\mathbb{R}\mid x\ne1\}", r"\mathbb{R}\setminus\{1\}", True),
        ("x<5", "2x<10", True), ("x<5", "-x<5", False), ("x<5", "y<5", False),
        (r"1\le x\le4", r"x\ge1\land x\le4", True),
        (r"1\le x\le4", r"x\ge1\lor x\le4", False), ("[0,2]", r"[0,1]\cup[1,2]", True),
        ("[0,2]", r"[0,1)\cup(1,2]", False),
        ("(0,1)", "0<f(x)<1", True), (r"\mathbb{R}", r"(-\infty,\infty)", True), ("(a,b)", "a<x<b", True),
        ("(a,b)", "b<x<a", False),
        (r"[0,1]\cup\{3\}", r"\{3\}\cup[0,1]", True), (r"\mathbb{Z}", r"\mathbb{R}", False), ("x^2<4", "2x^2<8", True),
        (r"3\pmod7", r"x\equiv10\pmod7", True), (r"3\pmod7", r"x\equiv3\pmod8", False), (r"x\equiv3\pmod7", "3", True),
        ("3", r"3\pmod7", False), (r"x\equiv3\pmod7", r"y\equiv3\pmod7", False),
    ],
)  # fmt: skip
def test_sets_and_residues_have_one_normal_form(
    reference: str, answer: str, expected: bool
) -> None:
    assert accepts(reference, answer) is expected


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("24", r"4!", True), ("24", "23+1", False), ("120", r"\binom{10}{3}", True),
        (r"\frac{(2n)!}{n!n!}", r"\binom{2n}{n}", False),
        ("3", r"\log_2 8", True), (r"\frac{\ln3}{\ln2}", r"\log_2 3", False), ("x", r"\log_2 3", False),
        ("5", r"23\bmod6", True),
        ("5", r"23\bmod6=5", False), ("5050", r"\sum_{k=1}^{100}k", True), ("5050", r"\sum_{k=1}^{100}k=5050", False),
        ("2x", r"\frac{d}{dx}x^2", True), ("2x", r"\frac{d(x^2)}{dx}", True), (r"\sum a_k", r"\sum_{k} a_k", False),
        ("1,24", "1,4!", True), (r"\frac23", r"\log_8 4", True),
    ],
)  # fmt: skip
def test_an_operator_of_the_question_must_be_evaluated(
    reference: str, answer: str, expected: bool
) -> None:
    assert has_echo(parse(answer), parse(reference)) is expected


@pytest.mark.parametrize(
    "text",
    ["", "+", r"\frac{1}", "1,,2", "(1", "1)", r"\unknown", r"\begin{cases}1\end{cases}", "12_0", "a=",
    "x^", r"\fbox{1}", "(" * 60],
)  # fmt: skip
def test_a_text_outside_the_grammar_is_unreadable_as_a_whole(text: str) -> None:
    with pytest.raises(UnreadableError):
        parse(text)


def test_what_cannot_be_compared_is_undecided() -> None:
    with pytest.raises(UndecidedError):
        accepts("9^{9^{9^9}}", "8^{9^{9^9}}")
