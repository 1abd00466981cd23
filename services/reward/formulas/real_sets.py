r"""Sets of real numbers in one normal form: disjoint intervals in order, a point being a closed one.

Intervals, unions, inequalities, absolute values, conditions joined by `and` or `or` and the
notation `\{x : …\}` are all brought to it. Only conditions that are linear, or bound an absolute
value of a linear expression, are solved: an inequality of higher degree repeats the question.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Final

from flint import arb

from services.reward.formulas.balls import NoValueError, evaluate
from services.reward.formulas.identity import is_identical, name_uninterpreted, to_point
from services.reward.formulas.nodes import (
    EXPRESSIONS,
    ONE,
    ZERO,
    Builder,
    Call,
    Constant,
    Junction,
    NamedSet,
    Node,
    Number,
    Product,
    Relation,
    Sequence,
    SetOperation,
    Sum,
    Symbol,
    UndecidedError,
    divide,
    negate,
    substitute,
    subtract,
    symbols_of,
)

_PRECISIONS: Final = (128, 1024)
_FLIPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}
_BRACKETS: Final = ("()", "[]", "(]", "[)")


class NotRealSetError(ValueError):
    """The node is not a set of real numbers in solved form."""


@dataclass(frozen=True)
class Interval:
    """An interval; None is an infinite end."""

    low: Node | None
    high: Node | None
    low_closed: bool = False
    high_closed: bool = False


@dataclass(frozen=True)
class RealSet:
    """Disjoint intervals in ascending order, and the variable that the condition named, if any."""

    intervals: tuple[Interval, ...]
    variable: str = ""


EVERYTHING: Final = (Interval(None, None),)


def to_real_set(node: Node) -> RealSet:
    """Return the set that a set expression or a condition describes; raises NotRealSetError."""
    names: set[str] = set()
    intervals = _to_intervals(node, names)
    if len(names) > 1:
        raise NotRealSetError
    # `0 < f(x) < 1` says of which values, but has no variable that an answer could repeat.
    named = {name for name in names if "()" not in name}
    return RealSet(_merge(intervals), next(iter(named), ""))


def is_same_set(left: RealSet, right: RealSet) -> bool:
    """Whether the sets are equal, and are not conditions for different variables."""
    if left.variable and right.variable and left.variable != right.variable:
        return False
    return len(left.intervals) == len(right.intervals) and all(
        (one.low_closed, one.high_closed) == (other.low_closed, other.high_closed)
        and _is_same_end(one.low, other.low)
        and _is_same_end(one.high, other.high)
        for one, other in zip(left.intervals, right.intervals, strict=True)
    )


def _is_same_end(left: Node | None, right: Node | None) -> bool:
    if left is None or right is None:
        return left is right
    return is_identical(left, right)


def _to_intervals(node: Node, names: set[str]) -> list[Interval]:
    match node:
        case NamedSet(name=name):
            return _named_set(name)
        case Sequence(brackets="{}", items=items):
            return [_to_point(item) for item in items]
        case Sequence(brackets=brackets, items=(low, high)) if brackets in _BRACKETS:
            return _interval(low, high, brackets[0] == "[", brackets[1] == "]")
        case Sequence(brackets="", items=items):
            return _join_list([_to_intervals(item, names) for item in items])
        case SetOperation(operator=operator, left=left, right=right):
            one, other = _to_intervals(left, names), _to_intervals(right, names)
            if operator == "union":
                return [*one, *other]
            return _intersect(one, other if operator == "intersection" else _complement(other))
        case Junction(operator=operator, items=items):
            parts = [_to_intervals(item, names) for item in items]
            return (
                [one for part in parts for one in part]
                if operator == "or"
                else _intersect_all(parts)
            )
        case Builder(variable=variable, condition=condition):
            return _from_builder(variable, condition)
        case Relation():
            return _solve_chain(node, names)
    raise NotRealSetError


def _from_builder(variable: Node, condition: Node) -> list[Interval]:
    names: set[str] = set()
    found = _to_intervals(condition, names)
    bound = variable.sides[0] if isinstance(variable, Relation) else variable
    if not isinstance(bound, Symbol) or not names <= {bound.name}:
        raise NotRealSetError
    if isinstance(variable, Relation):
        return _intersect(found, _to_intervals(variable.sides[1], set()))
    return found


def _named_set(name: str) -> list[Interval]:
    if name == "R":
        return list(EVERYTHING)
    if name == "empty":
        return []
    compact = name.replace("\\", "")
    if compact in ("R^+", "R_+", "R_>0", "R^>0"):
        return [Interval(ZERO, None)]
    if compact in ("R_ge0", "R^ge0", "R^+_0", "R_0^+"):
        return [Interval(ZERO, None, low_closed=True)]
    if compact in ("R^-", "R_-", "R_<0", "R^<0"):
        return [Interval(None, ZERO)]
    raise NotRealSetError


def _to_point(item: Node) -> Interval:
    if not isinstance(item, EXPRESSIONS):
        raise NotRealSetError
    return Interval(item, item, low_closed=True, high_closed=True)


def _interval(low: Node, high: Node, low_closed: bool, high_closed: bool) -> list[Interval]:
    if not isinstance(low, EXPRESSIONS) or not isinstance(high, EXPRESSIONS):
        raise NotRealSetError
    start, end = (None if _is_infinite(one) else one for one in (low, high))
    if start is None and low != negate(Constant("infinity")):
        raise NotRealSetError
    if end is None and high != Constant("infinity"):
        raise NotRealSetError
    if start is not None and end is not None and not _has_symbols(start, end):
        order = _order(start, end)
        if order > 0 or (order == 0 and not (low_closed and high_closed)):
            raise NotRealSetError
    return [Interval(start, end, low_closed and start is not None, high_closed and end is not None)]


def _is_infinite(node: Node) -> bool:
    return node in (Constant("infinity"), negate(Constant("infinity")))


def _has_symbols(*nodes: Node) -> bool:
    return any(symbols_of(node) for node in nodes)


# Conditions


def _solve_chain(relation: Relation, names: set[str]) -> list[Interval]:
    relation = Relation(name_uninterpreted(*relation.sides), relation.signs)
    variable = _find_variable(relation)
    names.add(variable)
    parts = [
        _solve(left, sign, right, variable)
        for left, sign, right in zip(
            relation.sides, relation.signs, relation.sides[1:], strict=False
        )
    ]
    return _intersect_all(parts)


def _find_variable(relation: Relation) -> str:
    """Return the variable for which a relation is solved: its only one, or the one alone on a side."""
    found = set().union(*(symbols_of(side) for side in relation.sides))
    alone = [
        side.name
        for place, side in enumerate(relation.sides)
        if isinstance(side, Symbol)
        and not any(
            side.name in symbols_of(other)
            for other in (*relation.sides[:place], *relation.sides[place + 1 :])
        )
    ]
    if len(found) == 1:
        return found.pop()
    middle = relation.sides[1] if len(relation.sides) == 3 else None
    if isinstance(middle, Symbol) and middle.name in alone:
        return middle.name
    if len(alone) == 1:
        return alone[0]
    raise NotRealSetError


def _solve(left: Node, sign: str, right: Node, name: str) -> list[Interval]:
    if sign == "in":
        if left != Symbol(name):
            raise NotRealSetError
        return _to_intervals(right, set())
    if sign not in _FLIPPED or not all(isinstance(side, EXPRESSIONS) for side in (left, right)):
        raise NotRealSetError
    if name not in symbols_of(left):
        left, sign, right = right, _FLIPPED[sign], left
    if left == Symbol(name) and name not in symbols_of(right):
        return _bounded(sign, right)
    if _has_symbols(substitute(left, name, ZERO), substitute(right, name, ZERO)):
        raise NotRealSetError
    if isinstance(left, Call) and left.name == "abs" and name not in symbols_of(right):
        return _solve_absolute(left.arguments[0], sign, right, name)
    return _solve_linear(left, sign, right, name)


def _bounded(sign: str, bound: Node) -> list[Interval]:
    closed = sign in ("<=", ">=")
    if _is_infinite(bound):
        return _bounded_by_infinity(sign, bound)
    if sign in ("<", "<="):
        return [Interval(None, bound, high_closed=closed)]
    if sign in (">", ">="):
        return [Interval(bound, None, low_closed=closed)]
    if sign == "=":
        return [_to_point(bound)]
    return [Interval(None, bound), Interval(bound, None)]


def _bounded_by_infinity(sign: str, bound: Node) -> list[Interval]:
    """Return everything for `x < \\infty`, the only bounds at infinity that occur."""
    if (sign in ("<", "<=")) == (bound == Constant("infinity")) and sign != "=":
        return list(EVERYTHING)
    raise NotRealSetError


def _solve_linear(left: Node, sign: str, right: Node, name: str) -> list[Interval]:
    difference = subtract(left, right)
    constant = substitute(difference, name, ZERO)
    slope = subtract(substitute(difference, name, ONE), constant)
    if not is_identical(difference, Sum((constant, Product((slope, Symbol(name)))))):
        raise NotRealSetError
    direction = _order(slope, ZERO)
    if direction == 0:
        raise NotRealSetError
    return _bounded(sign if direction > 0 else _FLIPPED[sign], divide(negate(constant), slope))


def _solve_absolute(inside: Node, sign: str, bound: Node, name: str) -> list[Interval]:
    if _order(bound, ZERO) <= 0 and sign != "!=":
        return _solve_nonpositive_bound(inside, sign, bound, name)
    above = _solve(inside, sign, bound, name)
    below = _solve(inside, _FLIPPED[sign], negate(bound), name)
    return _intersect(above, below) if sign in ("<", "<=", "!=") else [*above, *below]


def _solve_nonpositive_bound(inside: Node, sign: str, bound: Node, name: str) -> list[Interval]:
    """Return the set for `|u| < c` with a bound that is zero or negative."""
    zero = _order(bound, ZERO) == 0
    if sign == ">" and zero:
        return _solve(inside, "!=", ZERO, name)
    if sign in ("<=", "=") and zero:
        return _solve(inside, "=", ZERO, name)
    return list(EVERYTHING) if sign in (">", ">=") else []


# Operations on lists of intervals; their ends are constants that can be ordered


def _join_list(parts: list[list[Interval]]) -> list[Interval]:
    """Return the meaning of a comma: both conditions, or, if no number meets both, either."""
    both = _intersect_all(parts)
    return both or [one for part in parts for one in part]


def _intersect_all(parts: Iterable[list[Interval]]) -> list[Interval]:
    result = list(EVERYTHING)
    for part in parts:
        result = _intersect(result, part)
    return result


def _intersect(left: list[Interval], right: list[Interval]) -> list[Interval]:
    found = []
    for one in left:
        for other in right:
            low, low_closed = _stricter(
                one.low, one.low_closed, other.low, other.low_closed, direction=1
            )
            high, high_closed = _stricter(
                one.high, one.high_closed, other.high, other.high_closed, direction=-1
            )
            if low is not None and high is not None and not _has_symbols(low, high):
                order = _order(low, high)
                if order > 0 or (order == 0 and not (low_closed and high_closed)):
                    continue
            found.append(Interval(low, high, low_closed, high_closed))
    return found


def _stricter(
    one: Node | None, one_closed: bool, other: Node | None, other_closed: bool, *, direction: int
) -> tuple[Node | None, bool]:
    """Return the bound that excludes more: the greater one for direction 1, the lesser one for -1;
    None stands for infinity.
    """
    if one is None or other is None:
        return (other, other_closed) if one is None else (one, one_closed)
    order = direction * _order(one, other)
    if order == 0:
        return one, one_closed and other_closed
    return (one, one_closed) if order > 0 else (other, other_closed)


def _complement(intervals: list[Interval]) -> list[Interval]:
    result = list(EVERYTHING)
    for one in intervals:
        outside = []
        if one.low is not None:
            outside.append(Interval(None, one.low, high_closed=not one.low_closed))
        if one.high is not None:
            outside.append(Interval(one.high, None, low_closed=not one.high_closed))
        result = _intersect(result, outside)
    return result


def _merge(intervals: list[Interval]) -> tuple[Interval, ...]:
    """Sort the intervals, and join those that overlap or touch."""
    if len(intervals) < 2:
        return tuple(intervals)
    merged: list[Interval] = []
    for one in sorted(intervals, key=cmp_to_key(_compare_starts)):
        last = merged[-1] if merged else None
        if last is None or not _touches(last, one):
            merged.append(one)
            continue
        high, closed = last.high, last.high_closed
        if high is not None and (one.high is None or _order(high, one.high) < 0):
            high, closed = one.high, one.high_closed
        elif high is not None and one.high is not None and _order(high, one.high) == 0:
            closed = closed or one.high_closed
        merged[-1] = Interval(last.low, high, last.low_closed, closed)
    return tuple(merged)


def _compare_starts(one: Interval, other: Interval) -> int:
    if one.low is None or other.low is None:
        return (one.low is not None) - (other.low is not None)
    return _order(one.low, other.low) or other.low_closed - one.low_closed


def _touches(one: Interval, other: Interval) -> bool:
    """Whether an interval that starts later overlaps or continues the other."""
    if one.high is None or other.low is None:
        return True
    order = _order(one.high, other.low)
    return order > 0 or (order == 0 and (one.high_closed or other.low_closed))


def _order(left: Node, right: Node) -> int:
    """Return the sign of the difference of two constants; raises NotRealSetError for variables."""
    if isinstance(left, Number) and isinstance(right, Number):
        return (left.value > right.value) - (left.value < right.value)
    if left == right:
        return 0
    if _has_symbols(left, right):
        raise NotRealSetError
    for precision in _PRECISIONS:
        point = to_point({}, arb, precision)
        try:
            one, other = evaluate(left, point, arb), evaluate(right, point, arb)
        except (NoValueError, ZeroDivisionError, OverflowError) as error:
            raise NotRealSetError from error
        if one < other or one > other:
            return 1 if one > other else -1
    if is_identical(left, right):
        return 0
    raise UndecidedError("the order of two bounds")
