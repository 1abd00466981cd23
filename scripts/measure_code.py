"""Measure the habits that make code easy or hard to carry on; prints one JSON line.

    python scripts/measure_code.py            # services/ of this checkout
    python scripts/measure_code.py --root DIR --package SRC   # another project, for comparison

Generated code (services/common/pb) and database migrations are left out. "Lines of code" are physical lines that
hold at least one token that is neither a comment nor a docstring. A repeated run is a stretch of at least six such
lines, imports left out and indentation ignored, that occurs elsewhere too; it is counted at each place. Modules that a
script of this repository writes are left out of it.
"""

import argparse
import ast
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LONG_LINE: Final = 100
RUN: Final = 6
"""Lines of the shortest repeated run."""
EXCLUDED: Final = re.compile(r"/(pb|migrations|node_modules|\.venv)/")
# Regular participles by their ending, irregular ones by name. Words that only look like participles are excluded.
PARTICIPLE: Final = re.compile(
    r"^_?(?!(?:seed|need|feed|speed|bed|embed|shed|red|exceed|proceed|succeed|indeed|sacred|hundred)s?$)"
    r"(?:\w*[a-z]ed|\w*(?:given|taken|written|known|shown|drawn|chosen|split|cut|sent|held|kept|left|built|found|read|"
    r"gone|seen|done|made|paid|said|told|bound|spent|put|set))$"
)
NOT_PARTICIPLES: Final = frozenset(
    {"read", "set", "put", "split", "cut", "_read", "_set", "_put", "_split", "_cut"}
)
"""Verbs whose base form looks like their participle."""


@dataclass
class Measures:
    """Counts over all files of a package."""

    files: int = 0
    code_lines: int = 0
    comment_lines: int = 0
    long_lines: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    private_functions: int = 0
    private_named_once: int = 0
    short_helpers_named_once: int = 0
    participles: list[str] = field(default_factory=list)
    normalised: dict[Path, list[str]] = field(default_factory=dict)
    """Code lines of each file without indentation, for the search of repeated runs."""

    def add(self, path: Path) -> None:
        """Count one file."""
        source = path.read_text()
        tree = ast.parse(source)
        self.files += 1
        lines = source.splitlines()
        self.lines += len(lines)
        self.long_lines += sum(len(line) > LONG_LINE for line in lines)
        code, comments = find_lines(source, tree)
        self.code_lines += len(code)
        self.comment_lines += len(comments)
        names = Counter(iterate_names(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self.classes += 1
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            self.functions += 1
            name = node.name
            if (
                PARTICIPLE.match(name)
                and name not in NOT_PARTICIPLES
                and name.count("_") <= name.startswith("_")
                and not is_property(node)
            ):
                self.participles.append(f"{path}:{node.lineno} {name}")
            if name.startswith("_") and not name.startswith("__") and not node.decorator_list:
                self.private_functions += 1
                if names[name] == 1:
                    self.private_named_once += 1
                    self.short_helpers_named_once += (
                        len(node.body) <= 1 + has_docstring(node) and length(node) <= 5
                    )
        imports = {
            line
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for line in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        if "Written by scripts/" in (ast.get_docstring(tree) or ""):
            return
        self.normalised[path] = [lines[number - 1].strip() for number in sorted(code - imports)]

    def to_json(self) -> dict[str, float]:
        """The measures as ratios, with the counts they come from."""
        return {
            "files": self.files,
            "code_lines": self.code_lines,
            "classes": self.classes,
            "functions_per_1000_code_lines": round(1000 * self.functions / self.code_lines, 1),
            "private_functions_named_once_percent_of_functions": round(
                100 * self.private_named_once / self.functions, 1
            ),
            "short_private_functions_named_once": self.short_helpers_named_once,
            "comment_lines_per_100_code_lines": round(
                100 * self.comment_lines / self.code_lines, 2
            ),
            "participle_names_percent": round(100 * len(self.participles) / self.functions, 2),
            "lines_over_100_columns_percent": round(100 * self.long_lines / self.lines, 2),
            "repeated_runs": sum(map(len, find_repeated_runs(self.normalised).values())),
        }


def find_lines(source: str, tree: ast.Module) -> tuple[set[int], set[int]]:
    """Return the numbers of (lines of code, lines that are only a comment)."""
    documented = {
        line
        for node in iterate_docstrings(tree)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    skipped = {
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
        tokenize.COMMENT,
    }
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in skipped:
            code.update(range(token.start[0], token.end[0] + 1))
    return code - documented, comments - code


def find_repeated_runs(files: dict[Path, list[str]]) -> dict[Path, list[tuple[int, int]]]:
    """Return the maximal stretches, as indices of lines, whose every window of RUN lines occurs twice."""
    windows = Counter(window for lines in files.values() for window in iterate_windows(lines))
    runs: dict[Path, list[tuple[int, int]]] = {}
    for path, lines in files.items():
        for start, window in enumerate(iterate_windows(lines)):
            if windows[window] < 2:
                continue
            found = runs.setdefault(path, [])
            if found and start < found[-1][1]:
                found[-1] = (found[-1][0], start + RUN)
            else:
                found.append((start, start + RUN))
    return runs


def iterate_windows(lines: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield every RUN consecutive lines."""
    return (tuple(lines[start : start + RUN]) for start in range(len(lines) - RUN + 1))


def iterate_docstrings(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield string statements: docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value


def iterate_names(tree: ast.Module) -> Iterator[str]:
    """Yield every use of a name or attribute; a definition does not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Properties name a state, for which a participle is right."""
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def has_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the function starts with a docstring."""
    return ast.get_docstring(node) is not None


def length(node: ast.AST) -> int:
    """Physical lines of a definition."""
    return (node.end_lineno or 0) - node.lineno + 1  # type: ignore[attr-defined]


def main() -> None:
    """Print the measures of a package."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--package", default="services")
    parser.add_argument(
        "--list",
        action="store_true",
        help="also list the names that are one participle, and the repeated runs",
    )
    options = parser.parse_args()
    measures = Measures()
    for path in sorted((options.root / options.package).rglob("*.py")):
        if not EXCLUDED.search(str(path)):
            measures.add(path)
    print(json.dumps(measures.to_json()))
    if options.list:
        print("\n".join(measures.participles))
        for path, runs in find_repeated_runs(measures.normalised).items():
            for start, end in runs:
                print(
                    f"{path}: {end - start} repeated lines from: {measures.normalised[path][start]}"
                )


if __name__ == "__main__":
    main()
