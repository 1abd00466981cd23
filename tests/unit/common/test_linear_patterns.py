import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import services.common.templates
import services.reward.shaping
import services.reward.verifier
import services.reward.worker  # noqa: F401
from services.common.linear_patterns import PATTERNS, LinearPattern, Match
from tests.support.cost import grows_linearly
from tests.support.hostile_text import CLASSES, hostile_texts

ALL = [pytest.param(pattern, id=f"{place}") for place, pattern in enumerate(PATTERNS)]
CHARS = 6000


def spans(matches: object) -> list[tuple[int, int, tuple[str | None, ...]]]:
    return [(match.start(), match.end(), match.groups()) for match in matches]  # type: ignore[attr-defined]


@st.composite
def texts_for(draw: st.DrawFn, pattern: LinearPattern) -> str:
    """Pieces of the pattern itself, so that it often matches, between characters of every class."""
    pieces = [*CLASSES.values(), *re.findall(r"[a-zA-Z]+", pattern.expression), r"\{", "3", "b"]
    return "".join(draw(st.lists(st.sampled_from(pieces), max_size=12)))


@pytest.mark.parametrize("pattern", ALL)
@given(st.data())
def test_results_are_those_of_re(pattern: LinearPattern, data: st.DataObject) -> None:
    text = data.draw(texts_for(pattern)).strip("\n")
    flags = re.DOTALL * pattern.dotall | re.I * pattern.ignore_case | re.M * pattern.multiline
    original = re.compile(pattern.expression, flags)

    assert spans(pattern.finditer(text)) == spans(original.finditer(text))
    assert spans(filter(None, [pattern.match(text)])) == spans(filter(None, [original.match(text)]))
    assert pattern.findall(text) == original.findall(text)
    assert pattern.sub("<>", text) == original.sub("<>", text)


@pytest.mark.parametrize("pattern", ALL)
def test_cost_is_linear(pattern: LinearPattern) -> None:
    words = sorted(set(re.findall(r"\\\\?[a-zA-Z]+\{?|[a-zA-Z]{2,}", pattern.expression)))[:12]
    # A pattern is not even tried on a text without its literals.
    frame = " ".join([*pattern.literals, ""])
    shapes = dict(hostile_texts(CHARS))
    shapes |= {word: (word + " 1") * (CHARS // len(word + " 1")) for word in words}

    def matches(text: str) -> None:
        for _ in pattern.finditer(text):
            pass

    slow = [
        name
        for name, text in shapes.items()
        if not grows_linearly(matches, frame + text, frame + text * 2)
    ]
    assert slow == []


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,])", "é1 000é 12 345, 6 1 000"),
        (r"\$|(?<!\\)\\[()]", r"\(\\(\\\($"),
        (r"(?<=a)b|c(?=d(?!e))", "abcdecdb"),
        ("^a|(?<!a)b", "abab b"),
    ],
)
def test_lookaround_at_the_edges_is_not_part_of_the_match(expression: str, text: str) -> None:
    expected = spans(re.finditer(expression, text))

    assert len(expected) == 2
    assert spans(LinearPattern(expression).finditer(text)) == expected


@pytest.mark.parametrize(
    "expression", ["a(?!b)c", "(?:a(?=b))+", "(?<!ab)c", r"(a)\1", r"[^\W_]", "(?i)a|b"]
)
def test_what_re2_cannot_match_is_an_error_at_once(expression: str) -> None:
    with pytest.raises(Exception, match=r"invalid|not one character|no translation"):
        LinearPattern(expression)


def test_a_lone_surrogate_matches_like_any_other_character() -> None:
    assert LinearPattern("b").sub("c", "\ud800ab\udfff") == "\ud800ac\udfff"


def test_a_replacement_may_be_computed() -> None:
    def double(match: Match) -> str:
        return match.group(1) * 2

    assert LinearPattern("a(.)").sub(double, "ab-ac") == "bb-cc"


def test_the_measure_of_cost_sees_a_quadratic() -> None:
    # Each match looks for the "b" at the end anew.
    pattern = LinearPattern("a(?=[^<>]*b)")
    short = "a" * (CHARS // 2) + "b"

    assert not grows_linearly(lambda text: list(pattern.finditer(text)), short, short * 2)
