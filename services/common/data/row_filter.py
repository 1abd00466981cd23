"""The expression of `data.filter`, evaluated row by row without running code of Python."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from simpleeval import DEFAULT_OPERATORS, EvalWithCompoundTypes, InvalidExpression

from services.common.data.row_errors import FieldError, shorten

_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "abs": abs,
    "float": float,
    "int": int,
    "len": len,
    "lower": str.lower,
    "max": max,
    "min": min,
    "str": str,
}
_NODES: Final = (
    ast.Expr, ast.Name, ast.Constant, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.BinOp, ast.Call, ast.IfExp,
    ast.Subscript, ast.List, ast.Tuple,
)  # fmt: skip
"""No formatted texts, comprehensions, dictionaries and keywords: none is needed to select rows, and each
can take more memory than the row.
"""
_MAX_CHARS: Final = 2000


def _compares(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """A missing value is neither less nor more than another one, as in SQL."""
    return lambda left, right: left is not None and right is not None and compare(left, right)


_OPERATORS: Final = {
    kind: DEFAULT_OPERATORS[kind]
    for kind in (
        ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Eq, ast.NotEq, ast.Not, ast.USub, ast.UAdd, ast.Is,
        ast.IsNot,
    )
} | {
    ast.Lt: _compares(operator.lt),
    ast.LtE: _compares(operator.le),
    ast.Gt: _compares(operator.gt),
    ast.GtE: _compares(operator.ge),
    ast.In: lambda left, right: right is not None and left in right,
    ast.NotIn: lambda left, right: right is None or left not in right,
}  # fmt: skip


class RowFilter(EvalWithCompoundTypes):  # type: ignore[misc]  # the library has no types
    """A condition on the fields of a row; raises ValueError for an expression that is not one."""

    def __init__(self, expression: str) -> None:
        super().__init__(
            operators=dict(_OPERATORS), functions=dict(_FUNCTIONS), names=self._read_name
        )
        self.functions = dict(_FUNCTIONS)
        handlers = vars(self)["nodes"]
        self.nodes = {kind: handlers[kind] for kind in _NODES} | {ast.Attribute: self._read_key}
        self.expression = expression
        self._tree = self._parse_condition(expression)
        self._row: Mapping[str, Any] = {}
        self.missing = {
            node.id
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Name) and node.id not in _FUNCTIONS
        }
        """Fields that the expression reads and that no row had so far."""

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is kept; raises FieldError."""
        self._row = row
        self.missing -= row.keys()
        try:
            return bool(self.eval(self.expression, self._tree))
        except (InvalidExpression, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise FieldError(
                f"data.filter {self.expression!r} cannot be evaluated: {error}; numbers in CSV files are text, "
                "which float(FIELD) converts"
            ) from None

    def _read_name(self, node: ast.Name) -> Any:
        return self._row.get(node.id)

    def _read_key(self, node: ast.Attribute) -> Any:
        """`extra_info.difficulty` is a path, never an attribute of Python."""
        value = self._eval(node.value)
        return value.get(node.attr) if isinstance(value, dict) else None

    def _parse_condition(self, expression: str) -> ast.stmt:
        if len(expression) > _MAX_CHARS:
            raise ValueError(f"has {len(expression)} characters; the limit is {_MAX_CHARS}")
        try:
            body = ast.parse(expression.strip()).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{shorten(expression)} is not an expression: {error}") from None
        if len(body) != 1 or not isinstance(body[0], ast.Expr):
            raise ValueError(f"{shorten(expression)} is not one expression")
        for node in ast.walk(body[0]):
            if isinstance(node, ast.expr) and type(node) not in self.nodes:
                raise ValueError(
                    f"{shorten(expression)} has {type(node).__name__}; use fields, constants, and, or, not, in, "
                    f"comparisons, arithmetic and {', '.join(_FUNCTIONS)}"
                )
            if isinstance(node, ast.operator | ast.unaryop) and type(node) not in self.operators:
                raise ValueError(f"{shorten(expression)} has the operator {type(node).__name__}")
            if isinstance(node, ast.Call) and not (
                isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
            ):
                raise ValueError(
                    f"{shorten(expression)} calls {ast.unparse(node.func)}; the functions are {', '.join(_FUNCTIONS)}"
                )
        return body[0]
