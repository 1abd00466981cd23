import pytest

from services.common.answers.normalisation import normalise


@pytest.mark.parametrize(
    ("answer", "text", "unit"),
    [
        ("72.", "72", ""),
        (r"391\,872", "391872", ""),
        ("109 890", "109890", ""),
        (r"10{,}000", "10000", ""),
        (r"32,\! 349", "32349", ""),
        ("√5", r"\sqrt{5}", ""),
        ("４２", "42", ""),
        ("−3", "-3", ""),
        ("x²", "x^{2}", ""),
        ("1½", r"1\frac{1}{2}", ""),
        (r"\langle 1,2\rangle", "(1,2)", ""),
        (r"\text{The answer is }1414", "1414", ""),
        (r"\textbf{082}", "082", ""),
        (r"\text{Evelyn}", "Evelyn", ""),
        (r"\$42", "42", "dollar"),
        (r"$\left( 3, \frac{\pi}{2} \right)$", r"( 3, \frac{\pi}{2} )", ""),
        (r"\dfrac12", r"\frac{1}{2}", ""),
        ("185\\", "185", ""),
        ("**73**", "73", ""),
        ("1.5e3", r"1.5\times 10^{3}", ""),
        ("2*x", r"2\cdot x", ""),
        (r"12\text{ and }13", "12,13", ""),
        ("19, 46, and 82", "19, 46,82", ""),
        (r"28\%", "28", "%"),
        ("28 percent", "28", "%"),
        (r"90^\circ", "90", "degree"),
        (r"\sin(90^\circ-x)", r"\sin(\frac{90\pi}{180}-x)", ""),
        (r"15\mbox{ cm}^2", "15", "cm^2"),
        ("10 square feet", "10", "foot^2"),
        ("10weeks", "10", "week"),
        ("5m", "5m", ""),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", ""),
        (".5", ".5", ""),
        (r"52_{\text{eight}}", "52_{8}", ""),
        (r"413 \text{ (base 5)}", "413_{5}", ""),
        ("C_n^k", r"\binom{n}{k}", ""),
        (r"{}_{10}C_{3}", r"\binom{10}{3}", ""),
        (r"\sin 22.5^\circ", r"\sin \frac{225\pi}{1800}", ""),
        ("np.arcsin(10/13)", r"\arcsin(10/13)", ""),
        ("]0,1]", "(0,1]", ""),
        ("[[1,2],[3,4]]", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", ""),
        (r"\text{forty-two (42)}", "42", ""),
        ("seven days", "7", "day"),
        ("2⅗", r"2\frac{3}{5}", ""),
        (r"\text{July }4", "July 4", ""),
    ],
)
def test_equal_answers_get_one_spelling(answer: str, text: str, unit: str) -> None:
    normal = normalise(answer)
    assert (normal.text, normal.unit) == (text, unit)


def test_normalising_twice_changes_nothing() -> None:
    for answer in (
        r"\text{The answer is }1414",
        r"15\mbox{ cm}^2",
        r"\sin(90^\circ-x)",
        "1.5e3",
        r"\frac{3}{4}",
    ):
        once = normalise(answer).text
        assert normalise(once).text == once
