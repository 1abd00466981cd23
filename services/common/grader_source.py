"""What the source of a `python` grader reads, found without running it."""

import ast
from collections.abc import Iterator, Sequence


def find_grade(source: str) -> ast.FunctionDef:
    """Return the definition of `grade(sample, item)`; raises ValueError if there is none."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"source is not valid Python: {error}") from None
    defined = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "grade"]
    if not defined or len(defined[-1].args.args) != 2:
        raise ValueError("source must define grade(sample, item), which returns a number")
    return defined[-1]


def find_item_fields(source: str) -> frozenset[str]:
    """Return the fields of `item` that every call of `grade` reads by subscript, e.g. `tests` or
    `metadata.level`.

    A field that is read under a condition, within `try` or by `get` may be absent from a row.
    """
    grade = find_grade(source)
    item = grade.args.args[1].arg
    paths = {_read_path(node, item) for node in _iter_unconditional(grade.body)}
    return frozenset(".".join(path) for path in paths if path)


def names_outcome(source: str) -> bool:
    """Whether the source names the field `outcome` of `sample` anywhere."""
    return any(
        isinstance(node, ast.Constant) and node.value == "outcome"
        for node in ast.walk(ast.parse(source))
    )


def _read_path(node: ast.AST, item: str) -> tuple[str, ...]:
    """Return the keys of `item["a"]["b"]`; empty for any other expression."""
    keys: list[str] = []
    while (
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    ):
        keys.insert(0, node.slice.value)
        node = node.value
    return tuple(keys) if isinstance(node, ast.Name) and node.id == item else ()


def _iter_unconditional(statements: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """Yield the expressions that every run of the statements evaluates."""
    for statement in statements:
        match statement:
            case ast.If(test=first) | ast.While(test=first) | ast.For(iter=first):
                yield from _iter_evaluated(first)
            case ast.Match(subject=first):
                yield from _iter_evaluated(first)
            case ast.With(items=entered, body=body):
                for each in entered:
                    yield from _iter_evaluated(each.context_expr)
                yield from _iter_unconditional(body)
            case ast.Try() | ast.FunctionDef() | ast.ClassDef():
                pass
            case _:
                yield from _iter_evaluated(statement)
        # What follows a statement that may leave the function is conditional.
        if any(isinstance(inner, ast.Return | ast.Raise) for inner in ast.walk(statement)):
            return


def _iter_evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and the parts of it that are always evaluated with it."""
    yield node
    match node:
        case ast.BoolOp(values=[first, *_]) | ast.IfExp(test=first):
            yield from _iter_evaluated(first)
        case ast.Lambda():
            pass
        case ast.ListComp(generators=[first, *_]) | ast.SetComp(generators=[first, *_]):
            yield from _iter_evaluated(first.iter)
        case ast.GeneratorExp(generators=[first, *_]) | ast.DictComp(generators=[first, *_]):
            yield from _iter_evaluated(first.iter)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _iter_evaluated(child)
