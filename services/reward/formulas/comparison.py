r"""Compare an answer with a reference answer; the form of the reference answer selects the rule.

A name before an equals sign (`x = 5`, `f(x) = 2x`, `|AB| = 3`) is a label: values are compared, and
names only where both sides have them. Everything else before an equals sign is part of the answer.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Final

from flint import arb

from services.common.answers.answer_types import AnswerType
from services.common.answers.rationals import Rational, is_same_number
from services.reward.formulas.balls import INTERPRETED, NoValueError, evaluate
from services.reward.formulas.identity import has_value, is_identical, to_point
from services.reward.formulas.nodes import (
    EXPRESSIONS,
    Builder,
    Call,
    Congruence,
    Constant,
    EitherSign,
    Junction,
    Matrix,
    NamedSet,
    Node,
    Number,
    Power,
    Product,
    Relation,
    Sequence,
    SetOperation,
    Sum,
    Symbol,
    UndecidedError,
    UnreadableError,
    children,
    negate,
    rebuild,
    substitute,
    subtract,
    symbols_of,
    walk,
)
from services.reward.formulas.real_sets import NotRealSetError, is_same_set, to_real_set
from services.reward.formulas.relations import is_same_relation

_MAX_SIGNS: Final = 4
_CONDITIONS: Final = (Relation, Junction, SetOperation, Builder, NamedSet)
_ORDERED: Final = ("()", "[]")
_NEAR: Final = Fraction(1, 10)
_PRECISION: Final = 192


@dataclass(frozen=True)
class Statement:
    """A value, and the name that the text gives to it."""

    value: Node
    name: Node | None = None


def is_equal(reference: Node, answer: Node, kind: AnswerType) -> bool:
    """Whether the answer states the reference answer; raises UndecidedError.

    An answer without a value, such as `\\frac{1}{0}`, equals nothing that has one.
    """
    if isinstance(reference, Sequence):
        answer = _drop_point_name(answer)
    reference, answer = (
        scale_matrices(count_choices(_spread(expand_signs(side)))) for side in (reference, answer)
    )
    if isinstance(reference, Congruence) or isinstance(answer, Congruence):
        return _is_same_residue(reference, answer)
    if _is_set(reference, answer, kind):
        return _compare_sets(reference, answer)
    statement = to_statement(reference)
    if isinstance(reference, Relation) and statement is None:
        return isinstance(answer, Relation) and is_same_relation(reference, answer)
    if isinstance(reference, Junction):
        reference = Sequence("", reference.items)
        statement = None
    if isinstance(reference, Sequence):
        return _compare_sequences(reference, answer, kind)
    return _compare_statements(statement or Statement(reference), answer, kind)


def _drop_point_name(node: Node) -> Node:
    """Return the coordinates of the point `A(1,2)`."""
    if (
        isinstance(node, Call)
        and len(node.name) == 1
        and node.name.isupper()
        and len(node.arguments) > 1
    ):
        return Sequence("()", node.arguments)
    return node


def count_choices(node: Node) -> Node:
    """Read `C(5,2)` as a number of combinations and `P(5,2)` as one of permutations."""
    parts = children(node)
    if not parts:
        return node
    node = rebuild(node, tuple(count_choices(part) for part in parts))
    if isinstance(node, Call) and node.name in ("C", "P") and len(node.arguments) == 2:
        above, below = node.arguments
        combinations = Call("binomial", (above, below))
        return (
            combinations
            if node.name == "C"
            else Product((combinations, Call("factorial", (below,))))
        )
    return node


# Values with names


def to_statement(node: Node) -> Statement | None:
    """Return the value of `x = 5` or `x = 2 + 3 = 5`; None for an equation that states none.

    The sides after the name must agree. One with other variables, as in `A = \\pi r^2 = 4\\pi`, is
    the formula of the value.
    """
    if not isinstance(node, Relation):
        return Statement(node) if not isinstance(node, Junction) else None
    if node.signs == ("in",) and isinstance(node.sides[1], Sequence):
        return Statement(node.sides[1], node.sides[0])
    if not set(node.signs) <= {"=", "~"}:
        return None
    sides = node.sides
    named = is_name(sides[0]) and not (
        isinstance(sides[0], Symbol)
        and any(sides[0].name in symbols_of(side) for side in sides[1:])
    )
    if named:
        rest = sides[1:]
        return Statement(rest[-1], sides[0]) if _agrees(rest, node.signs[1:]) else None
    if len(sides) == 2 and is_name(sides[1]) and not symbols_of(sides[1]) & symbols_of(sides[0]):
        return Statement(sides[0], sides[1])
    return None


def is_name(node: Node) -> bool:
    """Whether a side of an equation only names the value on the other side."""
    match node:
        case Symbol():
            return True
        case Call(name="abs", arguments=(inside,)):
            return is_name(inside) and not (isinstance(inside, Symbol) and inside.name.islower())
        case Call(name=name):
            return name not in INTERPRETED
        case Product(factors=factors) if all(
            isinstance(factor, Symbol) for factor in factors
        ) and any(isinstance(factor, Symbol) and len(factor.name) > 2 for factor in factors):
            return True  # `m\\angle ABC`, or words and letters
        case Sum() | Product():
            return _is_asked_quantity(node)
        case Sequence(brackets="()", items=items):
            return all(isinstance(item, Symbol) for item in items)
    return False


def _is_asked_quantity(node: Node) -> bool:
    """Whether the node combines letters, as in `m + n` or `AB`; x, y and z are coordinates of a curve."""
    match node:
        case Symbol(name=name):
            return name not in ("x", "y", "z")
        case Number(value=value):
            return value == -1
        case Power(base=base, exponent=Number(value=value)):
            return value == -1 and _is_asked_quantity(base)
        case Sum(terms=parts) | Product(factors=parts):
            return all(map(_is_asked_quantity, parts))
    return False


def _agrees(sides: Items[Node], signs: Items[str]) -> bool:
    last = sides[-1]
    for side, sign in zip(sides[:-1], signs, strict=True):
        if sign == "~" or not symbols_of(side) <= symbols_of(last):
            continue
        if not is_equal(last, side, AnswerType.EXPRESSION):
            return False
    return True


def _to_value(answer: Node) -> Statement | None:
    """Return what an answer states; an equation without a name states the value of both its sides."""
    statement = to_statement(answer)
    if statement is not None or not isinstance(answer, Relation) or set(answer.signs) != {"="}:
        return statement
    sides = answer.sides
    return Statement(sides[-1]) if all(_is_same(sides[-1], side) for side in sides[:-1]) else None


def _compare_statements(reference: Statement, answer: Node, kind: AnswerType) -> bool:
    if reference.name is not None and isinstance(answer, Relation):
        stated = to_statement(answer)
        if stated is None or not _is_same_name(reference.name, stated.name):
            whole = Relation((reference.name, reference.value), ("=",))
            return is_same_relation(whole, answer)
    if isinstance(answer, Relation) and "~" in answer.signs:
        return _compare_approximation(reference.value, answer, kind)
    stated = _to_value(answer)
    if stated is None:
        return False
    value = stated.value
    if isinstance(value, Sequence) and len(value.items) == 1:
        value = value.items[0]
    if isinstance(reference.value, EXPRESSIONS):
        return isinstance(value, EXPRESSIONS) and _is_same(reference.value, value)
    if isinstance(reference.value, Matrix):
        return isinstance(value, Matrix) and _is_same_matrix(reference.value, value)
    if isinstance(reference.value, Relation | Junction):
        return False
    return is_equal(reference.value, value, kind)


def _compare_approximation(reference: Node, answer: Relation, kind: AnswerType) -> bool:
    r"""Take one side of `\\frac{11}{18} \\approx 0.611`: the decimal if the reference answer is one.

    `7 \\approx 8` states two answers.
    """
    is_decimal = isinstance(reference, Number) and reference.places
    place = answer.signs.index("~")
    exact = answer.sides[: place + 1]
    if not _is_near(answer.sides[place], answer.sides[place + 1]):
        return False
    if is_decimal or all(is_name(side) for side in exact):
        chosen: tuple[Node, ...] = answer.sides[place + 1 :]
    else:
        chosen = exact
    node = chosen[0] if len(chosen) == 1 else Relation(chosen, ("=",) * (len(chosen) - 1))
    return is_equal(reference, node, kind)


def _is_near(one: Node, other: Node) -> bool:
    """Whether two constants differ by a tenth at most; other expressions may be near."""
    if symbols_of(one) or symbols_of(other):
        return True
    values = _approximate(one), _approximate(other)
    if values[0] is None or values[1] is None:
        return True
    return abs(values[0] - values[1]) <= _NEAR * max(abs(values[0]), abs(values[1]))


def _is_same_name(one: Node | None, other: Node | None) -> bool:
    """Whether the names may be those of one value; `y` may name the value of a function."""
    if one is None or other is None or one == other:
        return True
    functions = [side for side in (one, other) if isinstance(side, Call) and side.name != "abs"]
    plain = [side.name for side in (one, other) if isinstance(side, Symbol)]
    if len(functions) == 1 and len(plain) == 1:
        return plain[0] in ("y", functions[0].name)
    return False


def _is_same(reference: Node, answer: Node) -> bool:
    """Whether two single values are equal, exactly or as a decimal and the number it rounds."""
    if not (isinstance(reference, EXPRESSIONS) and isinstance(answer, EXPRESSIONS)):
        return is_equal(reference, answer, AnswerType.EXPRESSION)
    if _words_of(answer) - _words_of(reference):
        return False
    if any(Constant("infinity") in walk(side) for side in (reference, answer)):
        return reference == answer
    try:
        return is_identical(reference, answer) or _is_rounded(reference, answer)
    except UndecidedError:
        if has_value(reference) and not has_value(answer):
            return False
        raise


def _words_of(node: Node) -> set[str]:
    """Return the words in an expression, which are a comment unless the reference answer has them."""
    return {name for name in symbols_of(node) if " " in name or (name.isalpha() and len(name) > 2)}


def _is_rounded(reference: Node, answer: Node) -> bool:
    for decimal, other in ((answer, reference), (reference, answer)):
        if isinstance(decimal, Number) and decimal.places and not symbols_of(other):
            exact = _approximate(other)
            if exact is None:
                return False
            places = other.places if isinstance(other, Number) else None
            return is_same_number(Rational(exact, places), Rational(decimal.value, decimal.places))
    return False


def _approximate(node: Node) -> Fraction | None:
    """Return a real constant to fifty digits; None if it has no real value."""
    if isinstance(node, Number):
        return node.value
    try:
        ball = evaluate(node, to_point({}, arb, _PRECISION), arb)
    except (NoValueError, UnreadableError, ZeroDivisionError, OverflowError, KeyError):
        return None
    mantissa, exponent = ball.mid().man_exp()
    exponent = int(exponent)
    if abs(exponent) > 4 * _PRECISION:
        return None
    return Fraction(int(mantissa)) * Fraction(2) ** exponent


# Several values


def expand_signs(node: Node) -> Node:
    r"""Expand `\pm`, which stands for two values; several vary independently unless one is a `\mp`."""
    if not any(isinstance(part, EitherSign) for part in walk(node)):
        return node
    if isinstance(node, Sequence) and node.brackets in ("", "{}"):
        items = [expand_signs(item) for item in node.items]
        flat = [
            part
            for item in items
            for part in (
                item.items if isinstance(item, Sequence) and item.brackets == "" else (item,)
            )
        ]
        return Sequence(node.brackets, tuple(flat))
    signs = [part for part in walk(node) if isinstance(part, EitherSign)]
    if len(signs) > _MAX_SIGNS:
        raise UnreadableError(r"\pm")
    if any(sign.flipped for sign in signs):
        choices = [(True,) * len(signs), (False,) * len(signs)]
    else:
        choices = list(product((True, False), repeat=len(signs)))
    return Sequence("", tuple(_choose(node, iter(choice)) for choice in choices))


def _choose(node: Node, choice: Iterator[bool]) -> Node:
    if isinstance(node, EitherSign):
        positive = next(choice) is not node.flipped
        term = _choose(node.term, choice)
        return term if positive else negate(term)
    parts = children(node)
    return rebuild(node, tuple(_choose(part, choice) for part in parts)) if parts else node


def _compare_sequences(reference: Sequence, answer: Node, kind: AnswerType) -> bool:
    named = _to_named(reference)
    if named is not None:
        return _compare_named(named, answer)
    items = _to_items(answer, reference)
    if items is None:
        return len(reference.items) == 1 and _is_same(reference.items[0], answer)
    values = [_drop_name(item) for item in reference.items]
    if reference.brackets not in ("", "{}"):
        return len(values) == len(items) and all(map(_is_same, values, items))
    if all(isinstance(value, Sequence) for value in values):
        # Solutions of a system of equations: repeating one does not change the answer.
        values, items = _drop_repeated(values), _drop_repeated(items)
    return _is_same_multiset(values, items)


def _to_items(answer: Node, reference: Sequence) -> list[Node] | None:
    """Return the values of an answer with several; None if it has another form."""
    statement = to_statement(answer)
    if statement is not None:
        answer = statement.value
    if isinstance(answer, Junction):
        answer = Sequence("", answer.items)
    if not isinstance(answer, Sequence):
        return None
    if reference.brackets not in ("", "{}"):
        named = _to_named(answer) if answer.brackets == "" else None
        if named is not None:
            letters = all(len(name) == 1 for name in named)
            return [named[name] for name in (sorted(named) if letters else named)]
        if answer.brackets not in ("", reference.brackets):
            return None
    elif answer.brackets not in ("", "{}", "()"):
        return None
    return _drop_names(answer.items)


def _drop_name(item: Node) -> Node:
    statement = to_statement(item)
    return item if statement is None else statement.value


def _drop_names(items: Items[Node]) -> list[Node] | None:
    """Return the values of `x = 1, x = 2`, `x_1 = 1, x_2 = 2` and `x = 1, 2`; None if the names differ."""
    statements = [to_statement(item) or Statement(item) for item in items]
    names = {statement.name for statement in statements if statement.name is not None}
    letters = {
        name.name.partition("_")[0] if isinstance(name, Symbol) else str(name) for name in names
    }
    return [statement.value for statement in statements] if len(letters) < 2 else None


def _to_named(sequence: Sequence) -> dict[str, Node] | None:
    """Return the values by name of `x = 1, y = 2`; None if not every item has a name of its own."""
    statements = [to_statement(item) for item in sequence.items]
    named = {
        statement.name.name: statement.value
        for statement in statements
        if statement is not None and isinstance(statement.name, Symbol | Call)
    }
    return named if len(named) == len(statements) and len(named) > 1 else None


def _compare_named(reference: dict[str, Node], answer: Node) -> bool:
    """Compare values by name, or those of a bare list in the order of the names in the reference."""
    if isinstance(answer, Junction) and answer.operator == "and":
        answer = Sequence("", answer.items)
    if not isinstance(answer, Sequence) or answer.brackets not in ("", "()"):
        return False
    named = _to_named(answer)
    if named is not None:
        return named.keys() == reference.keys() and all(
            _is_same(value, named[name]) for name, value in reference.items()
        )
    return len(answer.items) == len(reference) and all(
        _is_same(value, item) for value, item in zip(reference.values(), answer.items, strict=True)
    )


def _spread(node: Node) -> Node:
    """Turn `(x, y) = (1, 2)` into `x = 1, y = 2`."""
    match node:
        case Relation(
            sides=(Sequence(brackets="()", items=names), Sequence(brackets="()", items=values)),
            signs=("=",),
        ) if len(names) == len(values) and all(isinstance(name, Symbol) for name in names):
            pairs = zip(names, values, strict=True)
            return Sequence("", tuple(Relation(pair, ("=",)) for pair in pairs))
    return node


def scale_matrices(node: Node) -> Node:
    """Carry out sums of matrices and products of numbers with a matrix."""
    parts = children(node)
    if not any(isinstance(part, Matrix) for part in walk(node)):
        return node
    if isinstance(node, Matrix):
        return node
    node = rebuild(node, tuple(scale_matrices(part) for part in parts))
    match node:
        case Product(factors=factors):
            matrices = [factor for factor in factors if isinstance(factor, Matrix)]
            scalars = [factor for factor in factors if not isinstance(factor, Matrix)]
            if len(matrices) == 1:
                return Matrix(
                    tuple(
                        tuple(Product((*scalars, cell)) for cell in row) for row in matrices[0].rows
                    )
                )
        case Sum(terms=terms) if all(isinstance(term, Matrix) for term in terms):
            shapes = {
                tuple(len(row) for row in term.rows) for term in terms if isinstance(term, Matrix)
            }
            if len(shapes) == 1:
                rows = zip(*(term.rows for term in terms if isinstance(term, Matrix)), strict=True)
                return Matrix(
                    tuple(tuple(Sum(cells) for cells in zip(*row, strict=True)) for row in rows)
                )
    return node


def _is_same_multiset(references: list[Node], answers: list[Node]) -> bool:
    if len(references) != len(answers):
        return False
    rest = list(answers)
    for reference in references:
        place = next((at for at, one in enumerate(rest) if _is_same(reference, one)), None)
        if place is None:
            return False
        del rest[place]
    return True


def _drop_repeated(items: list[Node]) -> list[Node]:
    kept: list[Node] = []
    for item in items:
        if not any(_is_same(one, item) for one in kept):
            kept.append(item)
    return kept


def _is_same_matrix(reference: Matrix, answer: Matrix) -> bool:
    return [len(row) for row in reference.rows] == [len(row) for row in answer.rows] and all(
        _is_same(one, other)
        for row, others in zip(reference.rows, answer.rows, strict=True)
        for one, other in zip(row, others, strict=True)
    )


# Sets and residues


def _is_set(reference: Node, answer: Node, kind: AnswerType) -> bool:
    """Whether the reference answer is a set of real numbers, or a condition for a number."""
    if isinstance(reference, SetOperation | Builder | NamedSet):
        return True
    if isinstance(reference, Relation):
        return bool(set(reference.signs) - {"=", "~"})
    if isinstance(reference, Junction) or (
        isinstance(reference, Sequence) and reference.brackets == ""
    ):
        return any(
            isinstance(part, Relation) and set(part.signs) - {"=", "~"}
            for part in children(reference)
        ) or any(isinstance(part, SetOperation) for part in children(reference))
    if (
        not isinstance(reference, Sequence)
        or len(reference.items) != 2
        or reference.brackets == "{}"
    ):
        return False
    if kind is AnswerType.INTERVAL or reference.brackets in ("(]", "[)"):
        return True
    if any(Constant("infinity") in walk(item) for item in reference.items):
        return True
    # `(1,2)` may be a point, but no condition describes one.
    return _is_condition(answer)


def _is_condition(node: Node) -> bool:
    if isinstance(node, SetOperation | Builder):
        return True
    if isinstance(node, Relation):
        return bool(set(node.signs) - {"=", "~"})
    return isinstance(node, Junction | Sequence) and any(
        _is_condition(part) for part in children(node)
    )


def _compare_sets(reference: Node, answer: Node) -> bool:
    try:
        expected = to_real_set(reference)
    except NotRealSetError:
        return _compare_unsolved(reference, answer)
    statement = to_statement(answer)
    if statement is not None:
        answer = statement.value
    try:
        return is_same_set(expected, to_real_set(answer))
    except NotRealSetError:
        if isinstance(reference, Relation) and isinstance(answer, Relation):
            return is_same_relation(reference, answer)
        return False


def _compare_unsolved(reference: Node, answer: Node) -> bool:
    """Compare conditions that are not solved, and sets of other numbers, part by part."""
    if isinstance(reference, Relation) and isinstance(answer, Relation):
        if "in" in (*reference.signs, *answer.signs):
            return _compare_unsolved(reference.sides[-1], answer.sides[-1]) and (
                reference.sides[0] == answer.sides[0] and reference.signs == answer.signs
            )
        return is_same_relation(reference, answer)
    if isinstance(reference, Relation) and reference.signs == ("in",):
        return _compare_unsolved(reference.sides[1], answer)
    if isinstance(answer, Relation) and answer.signs == ("in",):
        return _compare_unsolved(reference, answer.sides[1])
    if isinstance(reference, Builder) and isinstance(answer, Builder):
        renamed = _rename_bound(answer, reference)
        return renamed is not None and (
            reference.condition == renamed or _compare_unsolved(reference.condition, renamed)
        )
    if type(reference) is not type(answer):
        return False
    if isinstance(reference, SetOperation) and isinstance(answer, SetOperation):
        return reference.operator == answer.operator and all(
            _compare_unsolved(one, other) if isinstance(one, _CONDITIONS) else _is_same(one, other)
            for one, other in ((reference.left, answer.left), (reference.right, answer.right))
        )
    if isinstance(reference, Junction | Sequence) and isinstance(answer, Junction | Sequence):
        ones, others = children(reference), list(children(answer))
        same_kind = (
            reference.operator == answer.operator
            if isinstance(reference, Junction) and isinstance(answer, Junction)
            else True
        )
        return same_kind and len(ones) == len(others) and all(map(_is_same_part, ones, others))
    return reference == answer


def _is_same_part(one: Node, other: Node) -> bool:
    return is_equal(one, other, AnswerType.EXPRESSION)


def _rename_bound(answer: Builder, reference: Builder) -> Node | None:
    bound, wanted = (
        side.variable.sides[0] if isinstance(side.variable, Relation) else side.variable
        for side in (answer, reference)
    )
    if not isinstance(bound, Symbol) or not isinstance(wanted, Symbol):
        return None
    return substitute(answer.condition, bound.name, wanted)


def _is_same_residue(reference: Node, answer: Node) -> bool:
    """Compare residue classes; the residue as written answers a class, but a class is not a number."""
    ours, theirs = (_to_residue(side) for side in (reference, answer))
    if ours is None or theirs is None:
        return False
    if ours.left is not None and theirs.left is not None and ours.left != theirs.left:
        return False
    if not isinstance(reference, Congruence):
        return False
    if not isinstance(answer, Congruence):
        return _is_same(ours.right, theirs.right)
    if not _is_same(ours.modulus, theirs.modulus):
        return False
    difference = _approximate_exactly(subtract(ours.right, theirs.right))
    modulus = _approximate_exactly(ours.modulus)
    if difference is None or not modulus:
        return _is_same(ours.right, theirs.right)
    return (difference / modulus).denominator == 1


def _to_residue(node: Node) -> Congruence | None:
    if isinstance(node, Congruence):
        return node
    statement = to_statement(node)
    if statement is None or not isinstance(statement.value, EXPRESSIONS):
        return None
    return Congruence(statement.name, statement.value, Number(Fraction(0)))


def _approximate_exactly(node: Node) -> Fraction | None:
    """Return the value of a sum of numbers; None for other expressions."""
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Sum):
        values = [_approximate_exactly(term) for term in node.terms]
        return None if None in values else sum((v for v in values if v is not None), Fraction(0))
    return None
