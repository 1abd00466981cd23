"""Syntax trees of answers. Every node is immutable, hashable and compared by structure."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any


class UnreadableError(ValueError):
    """The text is not in the grammar. `construct` names what was found, such as `\\int`."""

    def __init__(self, construct: str) -> None:
        super().__init__(construct)
        self.construct = construct


class UndecidedError(ValueError):
    """The two sides could not be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number."""

    value: Fraction
    places: int | None = None
    """Decimal places with which it was written; None if it was written exactly."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable or a quantity with a name, case-sensitive: `x`, `x_1`, `\\lambda`, `AB`, `f'(3)`."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """`pi`, `e`, `i` or `infinity`."""

    name: str


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of terms."""

    terms: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Product:
    """A product of factors; a quotient has a factor with the exponent -1."""

    factors: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Power:
    """A power."""

    base: "Node"
    exponent: "Node"


@dataclass(frozen=True, slots=True)
class Call:
    """A function with arguments; unknown names are uninterpreted functions."""

    name: str
    arguments: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class EitherSign:
    r"""`\\pm` or, with `flipped`, `\\mp`, before a term."""

    term: "Node"
    flipped: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain of relations, such as `0 < x <= 1` with two signs and three sides."""

    sides: "tuple[Node, ...]"
    signs: tuple[str, ...]
    """Each one of `=`, `<`, `<=`, `>`, `>=`, `!=`, `in`, `~`."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """Values in brackets: `()` and its half-open variants are ordered, `{}` and "" are not."""

    brackets: str
    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Junction:
    """Statements joined by `and` or `or`."""

    operator: str
    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class SetOperation:
    """`union`, `intersection` or `difference` of two sets."""

    operator: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class Builder:
    r"""A set in the notation `\\{x : condition\\}`."""

    variable: "Node"
    condition: "Node"


@dataclass(frozen=True, slots=True)
class NamedSet:
    """`R`, `Z`, `N`, `Q`, `C`, or `empty`."""

    name: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix by rows."""

    rows: "tuple[tuple[Node, ...], ...]"


@dataclass(frozen=True, slots=True)
class Congruence:
    r"""`a \\equiv b \\pmod m`; without a left side it is a residue class."""

    left: "Node | None"
    right: "Node"
    modulus: "Node"


Node = (
    Number
    | Symbol
    | Constant
    | Sum
    | Product
    | Power
    | Call
    | EitherSign
    | Relation
    | Sequence
    | Junction
    | SetOperation
    | Builder
    | NamedSet
    | Matrix
    | Congruence
)

EXPRESSIONS = (Number, Symbol, Constant, Sum, Product, Power, Call)
"""Nodes that stand for one value."""

ZERO = Number(Fraction(0))
ONE = Number(Fraction(1))
MINUS_ONE = Number(Fraction(-1))


def negate(node: Node) -> Node:
    """Return the negative of an expression."""
    return (
        Number(-node.value, node.places) if isinstance(node, Number) else Product((MINUS_ONE, node))
    )


def subtract(left: Node, right: Node) -> Node:
    """Return the difference of two expressions."""
    return Sum((left, negate(right)))


def divide(above: Node, below: Node) -> Node:
    """Return the quotient of two expressions."""
    if (
        isinstance(above, Number)
        and isinstance(below, Number)
        and below.value != 0
        and above.places is None
        and below.places is None
    ):
        return Number(above.value / below.value)
    return Product((above, Power(below, MINUS_ONE)))


def children(node: Node) -> "tuple[Node, ...]":
    """Return the direct parts of a node."""
    match node:
        case Sum(terms=parts) | Product(factors=parts) | Call(arguments=parts):
            return parts
        case Power(base=base, exponent=exponent):
            return (base, exponent)
        case EitherSign(term=term):
            return (term,)
        case Relation(sides=parts) | Sequence(items=parts) | Junction(items=parts):
            return parts
        case SetOperation(left=left, right=right):
            return (left, right)
        case Builder(variable=variable, condition=condition):
            return (variable, condition)
        case Matrix(rows=rows):
            return tuple(cell for row in rows for cell in row)
        case Congruence(left=left_side, right=right_side, modulus=modulus):
            return (right_side, modulus) if left_side is None else (left_side, right_side, modulus)
    return ()


def rebuild(node: Node, parts: "tuple[Node, ...]") -> Node:
    """Return an expression like `node` with other direct parts."""
    match node:
        case Sum():
            return Sum(parts)
        case Product():
            return Product(parts)
        case Power():
            return Power(*parts)
        case Call(name=name):
            return Call(name, parts)
        case EitherSign(flipped=flipped):
            return EitherSign(parts[0], flipped)
        case Relation(signs=signs):
            return Relation(parts, signs)
        case Sequence(brackets=brackets):
            return Sequence(brackets, parts)
    return node


def walk(node: Node) -> "Any":
    """Yield the node and all nodes below it."""
    yield node
    for part in children(node):
        yield from walk(part)


def symbols_of(node: Node) -> set[str]:
    """Return the names of the symbols in a node."""
    return {part.name for part in walk(node) if isinstance(part, Symbol)}


def substitute(node: Node, name: str, value: Node) -> Node:
    """Replace a symbol in an expression."""
    if isinstance(node, Symbol):
        return value if node.name == name else node
    parts = children(node)
    return rebuild(node, tuple(substitute(part, name, value) for part in parts)) if parts else node
