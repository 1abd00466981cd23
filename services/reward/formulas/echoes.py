r"""Find operators of the question that an answer repeats instead of evaluating them.

`\binom{10}{3}` for 120 shows no work; `\binom{2n}{n}` cannot be evaluated. So only operators without
variables count, a logarithm only if its value is rational, and none whose family is in the
reference answer.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from flint import arb

from services.reward.formulas.balls import NoValueError, evaluate
from services.reward.formulas.identity import is_identical, to_point
from services.reward.formulas.nodes import (
    Call,
    Node,
    Number,
    Product,
    Relation,
    Sequence,
    children,
    symbols_of,
    walk,
)
from services.reward.formulas.parser import OPERATORS

_FAMILIES: Final = {
    "factorial": "counting", "binomial": "counting", "Gamma": "counting", "gcd": "divisor", "lcm": "divisor",
    "max": "extreme", "min": "extreme", "mod": "remainder", "log": "logarithm", "ln": "logarithm",
    "det": "determinant", "floor": "rounding", "ceil": "rounding",
}  # fmt: skip
_MAX_DENOMINATOR: Final = 12
_PRECISION: Final = 128


def has_echo(answer: Node, reference: Node) -> bool:
    """Whether the answer has an operator that it should have evaluated."""
    if find_operations(answer) - find_operations(reference):
        return True
    known = {_FAMILIES[call.name] for call in _calls(reference)}
    return any(
        _FAMILIES[call.name] not in known and _should_be_evaluated(call)
        for value in _stated_values(answer)
        for call in _calls(value)
    )


def find_operations(node: Node) -> set[str]:
    r"""Return the operators, such as `\sum`, in the values that an answer states."""
    return {
        name.partition(" ")[0]
        for value in _stated_values(node)
        for name in symbols_of(value)
        if name.startswith(OPERATORS)
    }


def _stated_values(node: Node) -> Iterator[Node]:
    """Yield the last side of an equation, which may have begun with the question; of every item."""
    if isinstance(node, Sequence):
        for item in children(node):
            yield from _stated_values(item)
    else:
        yield node.sides[-1] if isinstance(node, Relation) and set(node.signs) == {"="} else node


def _calls(node: Node) -> list[Call]:
    return [part for part in walk(node) if isinstance(part, Call) and part.name in _FAMILIES]


def _should_be_evaluated(call: Call) -> bool:
    if symbols_of(call):
        return False
    return call.name not in ("log", "ln") or _is_rational(call)


def _is_rational(call: Call) -> bool:
    r"""Whether a logarithm is a rational number, as `\log_8 2` is."""
    try:
        value = evaluate(call, to_point({}, arb, _PRECISION, 10), arb)
    except (NoValueError, ZeroDivisionError, OverflowError):
        return False
    for below in range(1, _MAX_DENOMINATOR + 1):
        above = (value * below).unique_fmpz()
        if above is not None:
            return is_identical(
                Product((Number(Fraction(below)), call)), Number(Fraction(int(above)))
            )
    return False
