"""Expressions as quotients of polynomials over the rational numbers: their exact normal form.

Roots, functions and other parts that are not polynomial are indeterminates of their own. So equal
normal forms prove equality; different ones disprove it only if every indeterminate is a symbol.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from flint import Ordering, fmpq, fmpq_mpoly_ctx

from services.reward.formulas.nodes import Node, Number, Power, Product, Sum, Symbol

_MAX_EXPONENT: Final = 64
_MAX_TERMS: Final = 400
_MAX_BITS: Final = 1 << 20
"""Size of exact numbers."""


@dataclass(frozen=True)
class Quotient:
    """A quotient of polynomials in shared indeterminates."""

    above: Any
    below: Any
    is_complete: bool
    """Whether every indeterminate is a symbol, so that different quotients are different functions."""


def to_quotients(*nodes: Node) -> list[Quotient] | None:
    """Return the normal forms over one ring; None if one would be large, or divides by zero."""
    atoms: dict[Node, int] = {}
    if any(_count_terms(node, atoms) > _MAX_TERMS for node in nodes):
        return None
    ring = fmpq_mpoly_ctx.get(
        tuple(f"x{place}" for place in range(max(1, len(atoms)))), Ordering.degrevlex
    )
    generators = ring.gens()
    complete = all(isinstance(atom, Symbol) for atom in atoms)
    images = {atom: generators[place] for atom, place in atoms.items()}
    one = ring.from_dict({(0,) * len(generators): 1})
    try:
        return [Quotient(*_convert(node, images, one), complete) for node in nodes]
    except ZeroDivisionError:
        return None


def _count_terms(node: Node, atoms: dict[Node, int]) -> int:
    """Return a bound for the number of terms after expansion, and collect the indeterminates."""
    match node:
        case Number():
            return 1
        case Sum(terms=terms):
            counts = [_count_terms(term, atoms) for term in terms]
            return min(_MAX_TERMS + 1, sum(counts))
        case Product(factors=factors):
            total = 1
            for factor in factors:
                total = min(_MAX_TERMS + 1, total * _count_terms(factor, atoms))
            return total
        case Power(base=base, exponent=Number(value=value)) if _is_small(node):
            count, power = _count_terms(base, atoms), abs(value.numerator)
            return min(_MAX_TERMS + 1, count if count <= 1 else (power + 1) ** min(count, 8))
        case Power(base=Number(value=base), exponent=Number(value=value)) if _is_exact_power(
            base, value
        ):
            return 1
    atoms.setdefault(node, len(atoms))
    return 1


def _is_small(node: Power) -> bool:
    return (
        isinstance(node.exponent, Number)
        and node.exponent.value.denominator == 1
        and abs(node.exponent.value) <= _MAX_EXPONENT
    )


def _is_exact_power(base: Fraction, exponent: Fraction) -> bool:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    return exponent.denominator == 1 and bits * abs(exponent) <= _MAX_BITS


def _convert(node: Node, images: dict[Node, Any], one: Any) -> tuple[Any, Any]:
    match node:
        case Number(value=value):
            return one * fmpq(value.numerator, value.denominator), one
        case Sum(terms=terms):
            above, below = _convert(terms[0], images, one)
            for term in terms[1:]:
                numerator, denominator = _convert(term, images, one)
                if denominator == below:
                    above = above + numerator
                else:
                    above, below = above * denominator + numerator * below, below * denominator
            return above, below
        case Product(factors=factors):
            above, below = one, one
            for factor in factors:
                numerator, denominator = _convert(factor, images, one)
                above, below = above * numerator, below * denominator
            return above, below
        case Power(base=base, exponent=Number(value=value)) if _is_small(node):
            return _raise(*_convert(base, images, one), value.numerator)
        case Power(base=Number(value=number), exponent=Number(value=value)) if _is_exact_power(
            number, value
        ):
            return one * fmpq(number.numerator, number.denominator) ** value.numerator, one
    return images[node], one


def _raise(above: Any, below: Any, power: int) -> tuple[Any, Any]:
    if power >= 0:
        return above**power, below**power
    if above == 0:
        raise ZeroDivisionError
    return below**-power, above**-power


def is_equal(left: Quotient, right: Quotient) -> bool | None:
    """Whether the expressions are equal; None if this form does not tell."""
    if left.above * right.below == right.above * left.below:
        return True
    return False if left.is_complete else None


def has_same_zeros(left: Quotient, right: Quotient) -> bool:
    """Whether the numerators in lowest terms are equal up to a constant factor."""
    one, other = (_numerator(side) for side in (left, right))
    if one == 0 or other == 0:
        return bool(one == other)
    return bool(one * other.leading_coefficient() == other * one.leading_coefficient())


def _numerator(side: Quotient) -> Any:
    common = side.above.gcd(side.below)
    return side.above // common if common != 0 else side.above
