"""Arithmetic formulas over named numbers, with which a `multi` grader combines scores.

There are no powers, so that no formula is expensive.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

_MAX_CHARS: Final = 1000
_BINARY: Final[Mapping[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_UNARY: Final[Mapping[type[ast.unaryop], Callable[[float], float]]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
FUNCTIONS: Final[Mapping[str, Callable[..., float]]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil, "sqrt": math.sqrt, "exp": math.exp,
    "log": math.log,
}  # fmt: skip


class Formula:
    """A validated formula; `Formula(text, names)` raises ValueError for anything but arithmetic over
    `names`.
    """

    def __init__(self, text: str, names: set[str]) -> None:
        if len(text) > _MAX_CHARS:
            raise ValueError(
                f"the formula has {len(text)} characters; at most {_MAX_CHARS} are allowed"
            )
        try:
            self._root = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError(f"{text!r} is not a formula") from None
        self._check(self._root, names)

    def evaluate(self, values: Mapping[str, float]) -> float:
        """Evaluate the formula; raises ArithmeticError or ValueError if it has no value."""
        value = float(self._value(self._root, values))
        if not math.isfinite(value):
            raise ArithmeticError(f"the value of the formula is {value}")
        return value

    def _check(self, node: ast.expr, names: set[str]) -> None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.expr) and not _is_allowed(inner):
                raise ValueError(
                    f"{ast.unparse(inner)!r} is not allowed; a formula has numbers, the names {sorted(names)}, "
                    f"+ - * / and the functions {sorted(FUNCTIONS)}"
                )
        used = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} - set(
            FUNCTIONS
        )
        if used - names:
            raise ValueError(
                f"unknown names {sorted(used - names)}; the formula may use {sorted(names)}"
            )

    def _value(self, node: ast.expr, values: Mapping[str, float]) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name):
                return values[name]
            case ast.UnaryOp(op=sign, operand=operand):
                return _UNARY[type(sign)](self._value(operand, values))
            case ast.BinOp(left=left, op=sign, right=right):
                return _BINARY[type(sign)](self._value(left, values), self._value(right, values))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return FUNCTIONS[name](*(self._value(argument, values) for argument in arguments))
        raise AssertionError(f"{node!r} passed the check")


def _is_allowed(node: Any) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.UnaryOp(op=sign):
            return type(sign) in _UNARY
        case ast.BinOp(op=sign):
            return type(sign) in _BINARY
        case ast.Call(func=ast.Name(id=name), args=[_, *_], keywords=[]):
            return name in FUNCTIONS
    return isinstance(node, ast.Name)
