"""Compare equations and inequalities that are not solved: both sides, up to a constant factor."""

from fractions import Fraction
from typing import Any, Final

from flint import arb

from services.reward.formulas import rational
from services.reward.formulas.balls import NoValueError, evaluate
from services.reward.formulas.identity import (
    find_integers,
    is_identical,
    is_small,
    iterate_points,
    name_uninterpreted,
    to_point,
)
from services.reward.formulas.nodes import (
    EXPRESSIONS,
    Node,
    Relation,
    Symbol,
    UndecidedError,
    substitute,
    subtract,
    symbols_of,
)

_PRECISION: Final = 384
_POINTS: Final = 8
_MIN_POINTS: Final = 3
_AGREEMENT: Final = Fraction(1, 1 << 150)
_DIRECTIONS: Final = {
    "<": ("<", 1),
    "<=": ("<=", 1),
    ">": ("<", -1),
    ">=": ("<=", -1),
    "=": ("=", 1),
    "!=": ("!=", 1),
}


def is_same_relation(reference: Relation, answer: Relation) -> bool:
    """Whether the relations hold for the same values of their variables; raises UndecidedError."""
    if len(reference.signs) != len(answer.signs) or not all(
        isinstance(side, EXPRESSIONS) for side in (*reference.sides, *answer.sides)
    ):
        return False
    if any(sign not in _DIRECTIONS for sign in (*reference.signs, *answer.signs)):
        return False
    if not any(symbols_of(side) for side in reference.sides):
        return _is_same_statement(reference, answer)
    if len(reference.signs) > 1:
        return _is_same_chain(reference, answer) or _is_same_chain(reference, _turn(answer))
    one, other = (_to_zero(relation) for relation in (reference, answer))
    if one[0] != other[0]:
        return False
    left, right = name_uninterpreted(*_share_derivatives(one[1], other[1]))
    return _is_multiple(left, right, one[0])


def _is_same_statement(reference: Relation, answer: Relation) -> bool:
    """Compare relations between constants by their sides, since all true ones are equivalent."""
    return _is_same_chain(reference, answer) or _is_same_chain(reference, _turn(answer))


def _is_same_chain(reference: Relation, answer: Relation) -> bool:
    return reference.signs == answer.signs and all(map(is_identical, reference.sides, answer.sides))


def _turn(relation: Relation) -> Relation:
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    return Relation(
        relation.sides[::-1], tuple(flipped.get(sign, sign) for sign in relation.signs[::-1])
    )


def _to_zero(relation: Relation) -> tuple[str, Node]:
    """Return the sign and the left side of an equivalent relation to zero, with `<` for `>`."""
    sign, direction = _DIRECTIONS[relation.signs[0]]
    left, right = relation.sides if direction > 0 else relation.sides[::-1]
    return sign, subtract(left, right)


def _share_derivatives(left: Node, right: Node) -> tuple[Node, Node]:
    """Write `dy/dx` as `y'` where the other side does not name the variable."""
    return _drop_variables(left, right), _drop_variables(right, left)


def _drop_variables(node: Node, other: Node) -> Node:
    plain = {name for name in symbols_of(other) if name.endswith("'")}
    for name in symbols_of(node):
        short = name.partition("/")[0]
        if name != short and short in plain:
            node = substitute(node, name, Symbol(short))
    return node


def _is_multiple(left: Node, right: Node, sign: str) -> bool:
    """Whether the sides differ by a constant factor, which is positive for inequalities."""
    if sign == "=" and (quotients := rational.to_quotients(left, right)):
        if rational.has_same_zeros(*quotients):
            return True
        if quotients[0].is_complete:
            return False
    ratio = _find_ratio(left, right)
    return ratio is not None and (sign not in ("<", "<=") or bool(ratio > 0))


def _find_ratio(left: Node, right: Node) -> Any:
    """Return the constant quotient of the sides; None if it is not constant."""
    names = sorted(symbols_of(left) | symbols_of(right))
    integers = find_integers(left) | find_integers(right)
    ratio, agreed = None, 0
    for coordinates in iterate_points(names, integers, f"{left}{right}"):
        found = _ratio_at(coordinates, left, right)
        if found is None:
            continue
        ratio = found if ratio is None else ratio
        if found == 0 or not ratio.overlaps(found):
            return None
        agreed += is_small(ratio - found, (ratio, found), _AGREEMENT)
        if agreed == _POINTS:
            break
    if agreed < _MIN_POINTS:
        raise UndecidedError("no points at which both relations have values")
    return ratio


def _ratio_at(coordinates: dict[str, Fraction], left: Node, right: Node) -> Any:
    point = to_point(coordinates, arb, _PRECISION)
    try:
        one, other = evaluate(left, point, arb), evaluate(right, point, arb)
    except (NoValueError, ZeroDivisionError, OverflowError):
        return None
    if other.contains(0) or one.contains(0):
        return arb(0) if one.contains(0) is not other.contains(0) else None
    return one / other
