"""Values of expressions as balls: midpoints with rigorous error bounds, from Arb (python-flint).

Two balls that do not overlap prove that the values differ. Overlap at a high precision is evidence
of equality, with the error bound that `identity` states.
"""

import functools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from flint import acb, arb, fmpq, fmpz

from services.reward.formulas.nodes import (
    Call,
    Constant,
    Node,
    Number,
    Power,
    Product,
    Sum,
    Symbol,
    UnreadableError,
)

Ball = Any
"""An `arb` or an `acb`."""
LOG_BASE: Final = "\\log"
"""Key of the natural logarithm of the base of `\\log` without a base."""
INTERPRETED: Final = frozenset(
    [
        "root",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "sinh",
        "cosh",
        "tanh",
        "arcsin",
        "arccos",
        "arctan",
        "ln",
        "log",
        "abs",
        "factorial",
        "Gamma",
        "binomial",
        "floor",
        "ceil",
        "max",
        "min",
        "gcd",
        "lcm",
        "mod",
    ]
)
"""Functions that have values."""
_METHODS: Final = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log",
}  # fmt: skip
_STEPS: Final = ("floor", "ceil")
_MAX_COUNT: Final = 10**9
"""Factorials of larger numbers are not evaluated."""
_MAX_EXPONENT: Final = 1 << 40
"""Larger powers of two are not evaluated."""
_MAX_INTEGER: Final = 1 << 4096
"""Larger numbers are not treated as integers."""


class NoValueError(ValueError):
    """The expression has no finite value here, or none at this precision."""


def evaluate(node: Node, point: Mapping[str, Ball], field: type) -> Ball:
    """Return the value at a point, in the real (`arb`) or complex (`acb`) numbers.

    Raises NoValueError where it is undefined, and UnreadableError for operators without a value.
    """
    value = _evaluate(node, point, field)
    if not value.is_finite():
        raise NoValueError
    return value


def to_ball(value: Fraction, field: type = arb) -> Ball:
    """Return a number as a ball of the field."""
    if value.denominator == 1:
        return field(fmpz(value.numerator))
    return field(arb(fmpq(value.numerator, value.denominator)))


def _evaluate(node: Node, point: Mapping[str, Ball], field: type) -> Ball:
    match node:
        case Number(value=value):
            return to_ball(value, field)
        case Symbol(name=name):
            return point[name]
        case Constant(name=name):
            return _to_constant(name, field)
        case Sum(terms=terms):
            return sum((_evaluate(term, point, field) for term in terms), field(0))
        case Product(factors=factors):
            return math.prod(
                (_evaluate(factor, point, field) for factor in factors), start=field(1)
            )
        case Power(base=base, exponent=exponent):
            return _to_power(base, exponent, point, field)
        case Call(name=name, arguments=arguments):
            return _call(name, arguments, point, field)
    raise NoValueError


def _to_constant(name: str, field: type) -> Ball:
    if name == "pi":
        return field(arb.pi())
    if name == "e":
        return field(arb.const_e())
    if name == "i" and field is acb:
        return acb(0, 1)
    raise NoValueError


def _to_power(base: Node, exponent: Node, point: Mapping[str, Ball], field: type) -> Ball:
    if isinstance(base, Constant) and base.name == "e":
        power = _evaluate(exponent, point, field)
        _check_size(power)
        return power.exp()
    below = _evaluate(base, point, field)
    if isinstance(exponent, Number) and exponent.value.denominator == 1:
        return _to_integer_power(below, exponent.value.numerator)
    power = _evaluate(exponent, point, field)
    whole = _to_integer(power)
    if whole is not None:
        return _to_integer_power(below, whole)
    if below == 0 and power > 0 if field is arb else False:
        return below
    _check_size(power * below.log() if field is acb else power * abs(below).log())
    return below**power


def _to_integer_power(base: Ball, exponent: int) -> Ball:
    if exponent < 0 and base == 0:
        raise NoValueError
    if exponent == 0:
        return type(base)(1)
    if abs(exponent) > 1 and base != 0:
        _check_size(abs(base).log() * exponent)
    return base ** fmpz(exponent)


def _check_size(logarithm: Ball) -> None:
    """Raise NoValueError for powers whose size alone is a number of many digits."""
    if not abs(logarithm) < _MAX_EXPONENT:
        raise NoValueError


def _to_integer(value: Ball) -> int | None:
    real = value.real
    if (isinstance(value, acb) and value.imag != 0) or not abs(real) < _MAX_INTEGER:
        return None
    whole = real.unique_fmpz()
    # A ball around an integer need not be this integer; only exact ones are.
    return int(whole) if whole is not None and real.is_exact() else None


def _call(name: str, arguments: tuple[Node, ...], point: Mapping[str, Ball], field: type) -> Ball:
    values = [_evaluate(argument, point, field) for argument in arguments]
    if name in _METHODS or (name in _STEPS and field is arb):
        return getattr(values[0], _METHODS.get(name, name))()
    if name == "root":
        return _to_root(values[0], values[1], field)
    if name == "log":
        return values[0].log() / (values[1].log() if len(values) > 1 else point[LOG_BASE])
    if name == "abs":
        return field(abs(values[0]))
    if name in ("factorial", "Gamma", "binomial"):
        return _count(name, values)
    if field is arb and name in ("max", "min"):
        return functools.reduce(arb.max if name == "max" else arb.min, values)
    if field is arb and name in ("gcd", "lcm", "mod"):
        return _to_whole(name, values)
    # `floor` and `ceil` of complex numbers, and names that are no functions.
    raise NoValueError if name in INTERPRETED else UnreadableError(name)


def _to_root(value: Ball, degree: Ball, field: type) -> Ball:
    whole = _to_integer(degree)
    if whole is None or whole < 1:
        return value ** (1 / degree)
    if whole == 2:
        return value.sqrt()
    if field is arb:
        if whole % 2 and value < 0:
            return -((-value).root(whole))
        return value.root(whole)
    if whole % 2 and value.imag == 0 and value.real < 0:
        return -((-value).root(whole))
    return value.root(whole)


def _count(name: str, values: list[Ball]) -> Ball:
    """Return factorials and binomial coefficients, of any numbers, by the gamma function."""
    if not all(abs(value) < _MAX_COUNT for value in values):
        raise NoValueError
    if name == "binomial":
        above, below = values
        return (above + 1).gamma() * (below + 1).rgamma() * (above - below + 1).rgamma()
    return (values[0] + 1).gamma() if name == "factorial" else values[0].gamma()


def _to_whole(name: str, values: list[Ball]) -> Ball:
    """Return the value of an operator of integers; remainders also exist of other numbers."""
    wholes = [_to_integer(value) for value in values]
    if any(whole is None for whole in wholes):
        if name != "mod":
            raise NoValueError
        return values[0] - values[1] * (values[0] / values[1]).floor()
    numbers = [fmpz(whole) for whole in wholes if whole is not None]
    total = numbers[0]
    for number in numbers[1:]:
        if name == "mod":
            if number == 0:
                raise NoValueError
            total = total % number
        else:
            total = total.gcd(number) if name == "gcd" else total.lcm(number)
    return arb(total)
