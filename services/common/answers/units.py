r"""Units at the end of answers: `5\text{ cm}`, `9.8\,\mathrm{m/s^2}`, `12 red marbles`, `45\%`."""

from collections import Counter
from typing import Final

from services.common.answers.notation import TEXT
from services.common.linear_patterns import LinearPattern

_NAMES: Final = {
    "mm": "mm", "millimeter": "mm", "millimetre": "mm", "cm": "cm", "centimeter": "cm", "centimetre": "cm",
    "meter": "m", "metre": "m", "km": "km", "kilometer": "km", "kilometre": "km", "inch": "inch", "inches": "inch",
    "foot": "foot", "feet": "foot", "ft": "foot", "yard": "yard", "yd": "yard", "mile": "mile", "mi": "mile",
    "gram": "g", "kg": "kg", "kilogram": "kg", "pound": "pound", "lb": "pound", "ounce": "ounce",
    "oz": "ounce", "ton": "ton", "second": "s", "sec": "s", "min": "minute", "minute": "minute", "hr": "hour",
    "hour": "hour", "day": "day", "week": "week", "month": "month", "year": "year", "yr": "year",
    "degree": "degree", "deg": "degree", "celsius": "celsius", "fahrenheit": "fahrenheit", "radian": "radian",
    "rad": "radian", "dollar": "dollar", "usd": "dollar", "cent": "cent", "euro": "euro", "liter": "liter",
    "litre": "liter", "ml": "ml", "joule": "J", "newton": "N", "watt": "W", "volt": "V", "kelvin": "K",
    "pascal": "Pa", "hertz": "Hz", "hz": "Hz", "khz": "kHz", "mhz": "MHz", "mol": "mol", "micro": "micro",
    "kj": "kJ", "kw": "kW", "kilojoule": "kJ", "kilowatt": "kW", "megawatt": "MW", "kwh": "kWh", "calorie": "calorie",
    "kcal": "kilocalorie", "kilocalorie": "kilocalorie", "ampere": "A", "amp": "A", "ohm": "Omega", "coulomb": "C",
    "farad": "F", "tesla": "T", "milliliter": "ml", "millilitre": "ml", "centiliter": "centiliter",
    "centilitre": "centiliter", "gallon": "gallon", "quart": "quart", "acre": "acre", "hectare": "hectare",
    "decimeter": "decimeter", "decimetre": "decimeter", "micrometer": "micrometer", "nanometer": "nm",
    "nanometre": "nm", "milligram": "mg", "millisecond": "ms", "microsecond": "microsecond", "nanosecond": "ns",
    "knot": "knot",
    "ev": "eV", "mev": "MeV", "gev": "GeV", "kpa": "kPa", "atm": "atm", "erg": "erg", "gauss": "gauss",
    "people": "people", "person": "people", "student": "student", "way": "way", "time": "time", "coin": "coin",
    "point": "point", "unit": "unit", "percent": "%", "percentage": "%", "pct": "%",
    "thousand": "thousand", "million": "million", "billion": "billion",
}  # fmt: skip
_SYMBOLS: Final = {
    "m": "m", "g": "g", "s": "s", "h": "hour", "J": "J", "N": "N", "W": "W", "V": "V", "K": "K", "L": "liter",
    "A": "A", "C": "C", "T": "T", "F": "F", "Pa": "Pa", "Omega": "Omega", "M": "M",
    "mg": "mg", "ms": "ms", "nm": "nm",
}  # fmt: skip
"""Units that are variables unless they are in \\text{} or next to another unit."""
_RATES: Final = {
    "mph": {"mile": 1, "hour": -1},
    "kph": {"km": 1, "hour": -1},
    "kmh": {"km": 1, "hour": -1},
}
_UNMEASURED: Final = frozenset(
    {
        "unit", "people", "student", "way", "time", "coin", "point", "thousand", "million", "billion"
    }
)  # fmt: skip
_MEASURES: Final = (frozenset(_NAMES.values()) | frozenset(_SYMBOLS.values())) - _UNMEASURED
_ANGLES: Final = frozenset({"degree", "celsius", "fahrenheit"})
"""`75^\\circ` may be a temperature."""
_BEFORE: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_AFTER: Final = {"squared": 2, "cubed": 3}
_NO_UNITS: Final = frozenset(
    {
        "not", "or", "and", "more", "less", "fewer", "least", "most", "plus", "minus", "only", "except", "mod",
        "modulo", "factorial", "squared", "cubed", "half", "halves", "third", "thirds", "quarter", "quarters",
        "tenths", "hundredths", "dozen", "hundred", "am", "pm", "times", "base", "if", "when", "where", "unless",
        "each",
    }
)  # fmt: skip
_PROPERTIES: Final = frozenset(
    {
        "is", "are", "even", "odd", "prime", "composite", "perfect", "positive", "negative", "nonnegative", "integer",
        "integers", "real", "natural", "rational", "for", "with", "such", "any", "all", "some", "divisible",
        "multiple", "factor",
    }
)  # fmt: skip
"""Words that restrict the values of a variable and are not units."""

_CONTRADICTIONS: Final = frozenset(
    {
        "is", "are", "was", "were", "be", "been", "isn", "not", "no", "never", "neither", "nor", "wrong", "false",
        "incorrect",
        "right", "correct", "true", "actually", "really", "possibly", "maybe", "perhaps", "probably", "likely",
        "might", "may",
        "could", "would", "should", "can", "cannot", "but", "though", "although", "however", "instead", "rather",
        "yet",
        "it", "its", "this", "that", "these", "those", "they", "he", "she", "we", "you", "i", "because", "since",
        "so", "thus",
        "then", "hence", "than", "wait", "sorry", "oops", "mistake", "error", "guess", "guessed", "think",
        "believe", "either",
        "otherwise", "unknown", "unsure", "almost", "nearly", "approximately", "about", "roughly", "around", "also",
        "another",
    }
)  # fmt: skip
"""Words that make a statement about the number before them; a unit states nothing."""

_POWER: Final = r"(?: ?\^ ?(?:\{ ?-?\d ?\}|-?\d))?"
_GROUP: Final = TEXT + r" ?\{(?:[^{}\\]|\{[^{}\\]*\})*\}" + _POWER
_MARKED: Final = LinearPattern(
    rf"(?:\\mu ?)?{_GROUP}(?:[ ()/]*(?:\\cdot ?|\\times ?)?{_GROUP})*\)?\Z"
)
_ARGUMENT: Final = LinearPattern(TEXT + r" ?\{((?:[^{}\\]|\{[^{}\\]*\})*)\}")
_UNIT_TEXT: Final = LinearPattern(r"[ (]*[a-zA-Z][a-zA-Z0-9 ,./^{}()'-]*")
_LONE_NUMBER: Final = LinearPattern(r"[ ,(]\d|\d\d")
_MAX_UNIT_WORDS: Final = 6
_KNOWN: Final = "|".join(sorted((*_NAMES, *_RATES), key=len, reverse=True))
_NAME: Final = (
    rf"(?i:(?:(?:{'|'.join(_BEFORE)})\.? )?(?:{_KNOWN})s?(?: (?:{'|'.join(_AFTER)}))?)\.?"
)
_SYMBOL: Final = rf"(?:{'|'.join(_SYMBOLS)})"
_ANY: Final = rf"(?:{_NAME}|{_SYMBOL})"
_JOIN: Final = r"(?: ?/| ?\\cdot ?| per ) ?"
_BARE: Final = LinearPattern(
    rf"(?P<body>.*(?:[\d}})]|\\pi))(?: ?(?P<named>{_NAME}{_POWER}(?:(?:{_JOIN}| ){_ANY}{_POWER})*)"
    rf"| (?P<symbols>[mJNWV]{_POWER}(?:{_JOIN}{_ANY}{_POWER})+|{_SYMBOL}{_POWER}{_JOIN}{_NAME}{_POWER}))"
)
"""`2g/h` may be a formula, so single letters need a blank before them and another unit."""
_COUNTED: Final = LinearPattern(
    r"(?P<body>.*(?:[\d})]|\\pi)) (?P<unit>[A-Za-z][a-z-]+(?: [a-z-]+){0,3})\.?"
)
_COMMAND: Final = LinearPattern(r"\\[a-zA-Z]+")
_LETTERS: Final = LinearPattern(r"[a-zA-Z]+")
_FREE: Final = LinearPattern(r"[a-df-hj-zA-Z]")
_WORD: Final = LinearPattern(r"(?P<name>[a-zA-Z]+)|\^ ?\{? ?(?P<power>-?\d)|(?P<per>/)")


def split_unit(text: str) -> tuple[str, str]:
    """Split off the trailing unit in canonical form; "" if there is none."""
    marked = _MARKED.search(text)
    if marked:
        body = text[: marked.start()]
        names = _ARGUMENT.sub(r" \1 ", marked.group().replace(r"\mu", "micro ")).replace(
            r"\cdot", " "
        )
        closes_body = marked.group().endswith(")") and "(" not in marked.group()
        fits = (
            not closes_body
            and bool(body.strip())
            and _UNIT_TEXT.fullmatch(names)
            and _is_unit(names, body)
        )
        return (body, canonical(names)) if fits else (text, "")
    bare = _BARE.fullmatch(text)
    if bare:
        return bare.group("body"), canonical(bare.group("named") or bare.group("symbols"))
    counted = _COUNTED.fullmatch(text)
    if (
        counted
        and _is_closed(counted.group("body"))
        and _is_unit(counted.group("unit"), counted.group("body"))
    ):
        return counted.group("body"), canonical(counted.group("unit"))
    return text, ""


def _is_unit(names: str, body: str) -> bool:
    """Whether the words are a unit: no quantifiers or properties, and single letters only after a
    number.
    """
    words = _LETTERS.findall(names)
    closed = _is_closed(body)
    lower = {word.lower() for word in words}
    if (
        lower & (_NO_UNITS | _CONTRADICTIONS)
        or len(words) > _MAX_UNIT_WORDS
        or _LONE_NUMBER.search(names)
    ):
        return False
    if closed:
        return any(len(word) > 1 or word in _SYMBOLS for word in words)
    return _PROPERTIES.isdisjoint(word.lower() for word in words) and (
        len(words[0]) > 1 or len(words) > 1 or words[0] in ("m", "g", "s", "h")
    )


def _is_closed(body: str) -> bool:
    return not _FREE.search(_COMMAND.sub("", body))


def is_known(word: str) -> bool:
    """Whether the word is a known unit."""
    lower = word.lower()
    return bool({lower, lower.removesuffix("s")} & _NAMES.keys())


def canonical(names: str) -> str:
    """Convert `m/s^2`, `metres per second squared` and `m s^{-2}` to one text; keeps unknown words."""
    exponents: Counter[str] = Counter()
    sign, coming, last = 1, 1, ""
    for token in _WORD.finditer(names):
        name = (token.group("name") or "").lower()
        if token.group("per") or name == "per":
            sign = -1
        elif token.group("power") or name in _AFTER:
            exponents[last] *= int(token.group("power") or _AFTER[name])
        elif name in _BEFORE:
            coming = _BEFORE[name]
        else:
            rate = _RATES.get(name) or {_canonical_name(token.group("name")): 1}
            last = next(iter(rate))
            exponents.update({part: sign * coming * power for part, power in rate.items()})
            sign = coming = 1
    if exponents.keys() & {"celsius", "fahrenheit"}:
        del exponents["degree"]
    if coming > 1:
        exponents["unit"] += coming
    return " ".join(
        name if power == 1 else f"{name}^{power}" for name, power in sorted(exponents.items())
    )


def _canonical_name(word: str) -> str:
    if word in _SYMBOLS:
        return _SYMBOLS[word]
    lower = word.lower()
    return _NAMES.get(lower) or _NAMES.get(lower.removesuffix("s")) or lower


def has_unit_conflict(first: str, second: str) -> bool:
    """Whether both units are known measures and differ; missing or unknown units do not conflict."""
    if first == second or not (_is_measure(first) and _is_measure(second)):
        return False
    return not ("degree" in (first, second) and {first, second} <= _ANGLES)


def _is_measure(unit: str) -> bool:
    return bool(unit) and all(name.partition("^")[0] in _MEASURES for name in unit.split())
