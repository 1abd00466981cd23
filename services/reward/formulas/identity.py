"""Decide whether two expressions are equal.

The exact normal form proves or, for quotients of polynomials, disproves; rational numbers need
nothing else. Independently, both sides are evaluated in ball arithmetic at random points at which
both are defined. Disjoint balls prove that they differ. If all balls overlap, the sides are equal up
to this bound: constants agree to a relative error below 2^-400; expressions with variables agree at
eight points whose coordinates have 60 random bits (twelve integers up to 40 for variables of
factorials and of powers of negative numbers), to a relative error below 2^-150. Two different
polynomials of degree d agree at one such point with a probability below d / 2^60. A contradiction
between the two methods is an error of the verifier, never a verdict.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Final

from flint import acb, arb, ctx

from services.reward.formulas import rational
from services.reward.formulas.balls import (
    INTERPRETED,
    LOG_BASE,
    Ball,
    NoValueError,
    evaluate,
    to_ball,
)
from services.reward.formulas.nodes import (
    EXPRESSIONS,
    Call,
    Constant,
    Node,
    Number,
    Power,
    Symbol,
    UndecidedError,
    children,
    negate,
    rebuild,
    symbols_of,
    walk,
)

_PRECISIONS: Final = (192, 768, 3072)
_CONSTANT_PRECISIONS: Final = (192, 640, 2560, 10240)
_POINTS: Final = 8
_INTEGER_POINTS: Final = 12
_MIN_POINTS: Final = 3
_CANDIDATES: Final = 48
_AGREEMENT: Final = Fraction(1, 1 << 150)
_CONSTANT_AGREEMENT: Final = Fraction(1, 1 << 400)
_VANISHING: Final = Fraction(1, 1 << 100)
_SCALES: Final = (
    (Fraction(1), Fraction(4)),
    (Fraction(1, 10), Fraction(1)),
    (Fraction(4), Fraction(40)),
)
_MAX_INTEGER: Final = 40

Point = Mapping[str, Ball]


class ContradictionError(UndecidedError):
    """The exact and the numerical method disagree."""


def is_identical(left: Node, right: Node) -> bool:
    """Whether the expressions are equal wherever both are defined; raises UndecidedError."""
    if left == right:
        return True
    left, right = name_uninterpreted(left, right)
    exact = _compare_exactly(left, right)
    if exact is not None and not (symbols_of(left) or symbols_of(right)):
        return exact
    numerical = _compare_numerically(left, right)
    if exact is not None and numerical is not None and exact is not numerical:
        raise ContradictionError("the exact and the numerical comparison disagree")
    result = numerical if exact is None else exact
    if result is None:
        raise UndecidedError("no point at which both sides have a value")
    return result


def has_value(node: Node) -> bool:
    """Whether a number or a function has a value somewhere."""
    (node,) = name_uninterpreted(node)
    for field in (arb, acb):
        for coordinates in iterate_points(sorted(symbols_of(node)), find_integers(node), "value"):
            try:
                evaluate(node, to_point(coordinates, field, _PRECISIONS[0]), field)
            except (NoValueError, ZeroDivisionError, OverflowError):
                continue
            return True
    return False


def name_uninterpreted(*nodes: Node) -> tuple[Node, ...]:
    """Replace calls of functions without a value, such as `f(x+1)`, by symbols; equal calls by one."""
    seen: list[tuple[Call, Symbol]] = []
    return tuple(_name_calls(node, seen) for node in nodes)


def _name_calls(node: Node, seen: list[tuple[Call, Symbol]]) -> Node:
    parts = children(node)
    if not parts or not isinstance(node, EXPRESSIONS):
        return node
    node = rebuild(node, tuple(_name_calls(part, seen) for part in parts))
    if not isinstance(node, Call) or node.name in INTERPRETED:
        return node
    for call, symbol in seen:
        if call.name == node.name and len(call.arguments) == len(node.arguments):
            if all(map(is_identical, call.arguments, node.arguments)):
                return symbol
            if node.name == "cross" and all(
                map(is_identical, call.arguments, node.arguments[::-1])
            ):
                return negate(symbol)
    symbol = Symbol(f"{node.name}() {len(seen)}")
    seen.append((node, symbol))
    return symbol


def _compare_exactly(left: Node, right: Node) -> bool | None:
    quotients = rational.to_quotients(left, right)
    return None if quotients is None else rational.is_equal(*quotients)


def _compare_numerically(left: Node, right: Node) -> bool | None:
    is_complex = any(
        isinstance(part, Constant) and part.name == "i"
        for side in (left, right)
        for part in walk(side)
    )
    for field in (acb,) if is_complex else (arb, acb):
        found = _compare_in(field, left, right)
        if found is not None:
            return found
    return None


def _compare_in(field: type, left: Node, right: Node) -> bool | None:
    agreed = 0
    integers = find_integers(left) | find_integers(right)
    needed = _INTEGER_POINTS if integers else _POINTS
    names = sorted(symbols_of(left) | symbols_of(right))
    for coordinates in iterate_points(
        names, integers, f"{left}{right}", has_steps=_has_steps(left, right)
    ):
        equal = _agree_at(coordinates, field, left, right)
        if equal is False:
            return False
        agreed += equal is True
        if not names or agreed == needed:
            break
    return True if agreed >= (_MIN_POINTS if names else 1) else None


def _agree_at(
    coordinates: Mapping[str, Fraction], field: type, left: Node, right: Node
) -> bool | None:
    """Whether both sides agree; None where one of them has no value.

    `\\log` without a base is natural or decimal; the sides may agree in either reading.
    """
    bases = (None, 10) if any(has_bare_log(side) for side in (left, right)) else (None,)
    results = [_agree_with_base(base, coordinates, field, left, right) for base in bases]
    return next(result for result in (True, None, False) if result in results)


def _agree_with_base(
    base: int | None, coordinates: Mapping[str, Fraction], field: type, left: Node, right: Node
) -> bool | None:
    limit = _AGREEMENT if coordinates else _CONSTANT_AGREEMENT
    for precision in _PRECISIONS if coordinates else _CONSTANT_PRECISIONS:
        point = to_point(coordinates, field, precision, base)
        try:
            one, other = evaluate(left, point, field), evaluate(right, point, field)
        except (NoValueError, ZeroDivisionError, OverflowError):
            return None
        if not one.overlaps(other):
            return False
        if is_small(one - other, (one, other), limit):
            return True
    return None


def to_point(
    coordinates: Mapping[str, Fraction], field: type, precision: int, base: int | None = None
) -> Point:
    """Set the precision in bits, and return the point as balls."""
    ctx.prec = precision
    point = {name: to_ball(value, field) for name, value in coordinates.items()}
    point[LOG_BASE] = field(arb(base).log() if base else arb(1))
    return point


def is_small(difference: Ball, sides: tuple[Ball, ...], limit: Fraction) -> bool:
    """Whether the whole ball of a difference is within the limit, relative to the sides."""
    size = abs(difference).upper() if isinstance(difference, arb) else arb(abs(difference).upper())
    scale = max((abs(side).lower() for side in sides), default=arb(0))
    if scale <= to_ball(_VANISHING):
        return bool(size < to_ball(limit) * to_ball(_VANISHING)) or bool(size == 0)
    return bool(size < to_ball(limit) * scale)


def iterate_points(
    names: list[str], integers: set[str], seed: str, *, has_steps: bool = False
) -> Iterator[dict[str, Fraction]]:
    """Yield points that depend on the seed alone. Their signs run through all combinations."""
    if not names:
        yield {}
        return
    rng = random.Random(hashlib.blake2b(seed.encode("utf-8", "replace")).digest())
    for place in range(_CANDIDATES):
        # Functions with steps also differ at their steps alone.
        whole = names if has_steps and place % 2 else integers
        signs = place % (1 << min(len(names), 3))
        low, high = _SCALES[place % len(_SCALES)]
        yield {
            name: Fraction(rng.randint(1, _MAX_INTEGER))
            if name in whole
            else (-1 if signs >> min(index, 2) & 1 else 1)
            * (low + (high - low) * Fraction(rng.getrandbits(60), 1 << 60))
            for index, name in enumerate(names)
        }


def find_integers(node: Node) -> set[str]:
    """Return the symbols that stand for integers: in factorials, and in powers of negative numbers."""
    match node:
        case Call(name="factorial" | "binomial" | "gcd" | "lcm" | "mod"):
            return symbols_of(node)
        case Power(base=base, exponent=exponent) if not symbols_of(base) and _is_negative(base):
            return symbols_of(exponent)
    return set().union(*(find_integers(part) for part in children(node)))


def _has_steps(*nodes: Node) -> bool:
    return any(
        isinstance(part, Call) and part.name in ("floor", "ceil")
        for node in nodes
        for part in walk(node)
    )


def _is_negative(node: Node) -> bool:
    if isinstance(node, Number):
        return node.value < 0
    if isinstance(node, Constant):
        return node.name == "i"
    try:
        return bool(evaluate(node, to_point({}, arb, 64), arb) < 0)
    except (NoValueError, ZeroDivisionError, OverflowError, ValueError, KeyError):
        return False


def has_bare_log(node: Node) -> bool:
    """Whether the expression has a logarithm without a base."""
    return any(
        isinstance(part, Call) and part.name == "log" and len(part.arguments) == 1
        for part in walk(node)
    )
