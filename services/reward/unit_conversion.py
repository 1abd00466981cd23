r"""Convert between units of one dimension, exactly, by the tables of Pint.

Only names of the fixed table reach Pint, and never its parser, because a unit is a text of a model.
"""

from collections import Counter
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

import pint

_PINT_NAMES: Final = {
    "celsius": "degree_Celsius", "fahrenheit": "degree_Fahrenheit", "Omega": "ohm", "M": "molar",
    "dollar": "dollar", "cent": "dollar_cent",
    **{
        name: name
        for name in (
            "mm", "cm", "decimeter", "m", "km", "nm", "micrometer", "inch", "foot", "yard", "mile", "mg", "g", "kg",
            "pound", "ounce", "ns", "microsecond", "ms", "s", "minute", "hour", "day", "week", "month", "year", "ml",
            "centiliter", "liter", "gallon", "quart", "acre", "hectare", "J", "kJ", "erg", "eV", "MeV", "GeV",
            "calorie", "kilocalorie", "kWh", "N", "W", "kW", "MW", "V", "A", "C", "T", "F", "K", "Pa", "kPa", "Hz",
            "kHz", "MHz", "mol", "knot", "atm",
        )
    },
}  # fmt: skip
"""Names of Pint by our canonical ones. Degrees and radians are left out: their factor is irrational."""
_PREFIXES: Final = {"micro": Fraction(1, 10**6)}


class Conversion(NamedTuple):
    """What turns a value in one unit into one in another: first the offset, then the factor."""

    factor: Fraction
    offset: Fraction
    """Added to the converted value; not 0 between scales of temperature only."""


@lru_cache(maxsize=4096)
def find_conversion(unit: str, other: str) -> Conversion | None:
    """Return the conversion between canonical units; None if their dimensions differ or are unknown."""
    (source, scale, rest), (target, divisor, wanted) = _split(unit), _split(other)
    if rest != wanted or not (source or target):
        return None
    registry = load_registry()
    containers = [registry.UnitsContainer(names) for names in (source, target)]
    try:
        zero, one = (registry.convert(Fraction(value), *containers) for value in (0, 1))
    except pint.PintError:
        return None
    if zero and scale != divisor:
        return None
    return Conversion((one - zero) * scale / divisor, Fraction(zero))


@cache
def load_registry() -> Any:
    """Return the registry of exact units. The first call takes a second or two."""
    registry: Any = pint.UnitRegistry(non_int_type=Fraction)
    registry.define("dollar = [currency]")
    registry.define("dollar_cent = dollar / 100")
    return registry


def _split(unit: str) -> tuple[dict[str, int], Fraction, Counter[str]]:
    """Return the exponents by names of Pint, the factor of prefixes, and those of other names."""
    registry = load_registry()
    known: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    scale = Fraction(1)
    for part in unit.split():
        name, _, digits = part.partition("^")
        power = int(digits or 1)
        if name in _PREFIXES:
            scale *= _PREFIXES[name] ** power
        elif name in _PINT_NAMES:
            known[registry.get_name(_PINT_NAMES[name])] += power
        else:
            rest[name] += power
    return {name: power for name, power in known.items() if power}, scale, rest
