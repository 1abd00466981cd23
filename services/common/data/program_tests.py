r"""Tests of a programming problem, as the data sets of the field write them into their rows.

| rows of | fields | test |
| --- | --- | --- |
| LiveCodeBench | `public_test_cases`, `private_test_cases`, `metadata.func_name` | input and output, or a call |
| APPS | `input_output` with `inputs`, `outputs` and perhaps `fn_name` | input and output, or a call |
| HumanEval, HumanEval+ | `test` (defines `check`), `entry_point` | code that raises |
| MBPP, MBPP+ | `test`, or `test_list` with `test_imports` or `test_setup_code` | code that raises |
| own | `tests`: objects with `input` and `output`, or assertions | any of them |
"""

import ast
import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from services.common.linear_patterns import LinearPattern

_FENCE: Final = LinearPattern(
    r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", dotall=True, multiline=True
)
_THINK_END: Final = "</think>"
_MAX_PRIVATE_BYTES: Final = 64 << 20
_SHOWN: Final = 80


@dataclass(frozen=True, kw_only=True)
class ProgramTest:
    """One test: what is run after the program, and the result that it must have."""

    kind: Literal["program", "function", "expression", "assertions"]
    """`program` is a script with input and output; `expression` is evaluated after the program."""
    stdin: str = ""
    function: str = ""
    arguments: tuple[Any, ...] = ()
    code: str = ""
    """Expression or assertions."""
    expected: Any = None
    """Output of a script, or value of a call or an expression."""


def find_program(response: str) -> str:
    """Return the last fenced code block after the last `</think>`, or all of that text without one."""
    text = response.rpartition(_THINK_END)[2]
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text


def complete_program(program: str, item: Mapping[str, Any]) -> str:
    """Put the prompt before a program that continues it, as responses to HumanEval do."""
    entry, prompt = item.get("entry_point"), item.get("prompt")
    if not isinstance(entry, str) or not isinstance(prompt, str):
        return program
    is_complete = any(_defines(line, entry) for line in program.split("\n"))
    return program if is_complete else f"{prompt}{program}"


def _defines(line: str, name: str) -> bool:
    """Whether the line begins the definition of a function or class, or an assignment."""
    for keyword in ("def ", "class "):
        if line.startswith(f"{keyword}{name}"):
            following = line[len(keyword) + len(name) :][:1]
            return not following or not f"x{following}".isidentifier()
    return line.startswith(name) and line[len(name) :].lstrip(" ").startswith("=")


def read_program_tests(item: Mapping[str, Any]) -> tuple[ProgramTest, ...]:
    """Return the tests of a row; raises ValueError, whose message continues "the row …"."""
    for field, read in _READERS.items():
        if item.get(field) not in (None, "", [], {}):
            tests = tuple(read(item))
            if not tests:
                raise ValueError(f"has no test in the field {field!r}; add at least one")
            return tests
    raise ValueError(f"has no tests; the fields {', '.join(map(repr, _READERS))} may have them")


def outputs_match(output: str, expected: str) -> bool:
    """Whether a program's output is the expected one: line by line without surrounding blanks, or
    number by number.
    """
    lines, wanted = (
        [line.strip() for line in text.strip().splitlines()] for text in (output, expected)
    )
    if lines == wanted:
        return True
    if len(lines) != len(wanted):
        return False
    return all(
        line == goal or _numbers(line.split()) == _numbers(goal.split()) is not None
        for line, goal in zip(lines, wanted, strict=True)
    )


def values_match(value: Any, expected: Any) -> bool:
    """Whether a function returned the expected value; APPS writes some values into a list."""
    return bool(value == expected or (isinstance(expected, list) and [value] == expected))


def _numbers(words: Sequence[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


def _read_livecodebench(item: Mapping[str, Any]) -> Iterable[ProgramTest]:
    metadata = _read_object(item, "metadata")
    cases = [
        case
        for name in ("public_test_cases", "private_test_cases")
        if item.get(name)
        for case in _read_cases(item, name)
    ]
    for case in cases:
        if case.get("testtype") == "functional":
            function = metadata.get("func_name")
            if not isinstance(function, str):
                raise ValueError("has functional tests but no metadata.func_name")
            arguments = tuple(
                _parse(line, "public_test_cases") for line in case["input"].splitlines()
            )
            expected = _parse(case["output"], "public_test_cases")
            yield ProgramTest(
                kind="function", function=function, arguments=arguments, expected=expected
            )
        else:
            yield ProgramTest(kind="program", stdin=case["input"], expected=case["output"])


def _read_cases(item: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    value = item[name]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = _parse(_unpack(value, name), name)
    if not isinstance(value, list) or not all(
        isinstance(case, dict)
        and isinstance(case.get("input"), str)
        and isinstance(case.get("output"), str)
        for case in value
    ):
        raise ValueError(
            f"has a field {name!r} that is not a list of objects with `input` and `output`"
        )
    return value


def _unpack(text: str, name: str) -> str:
    """LiveCodeBench's private tests: base64 of zlib of a pickled string, of which only a string is read."""
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(
            base64.b64decode(text.encode(), validate=True), _MAX_PRIVATE_BYTES
        )
        value = _StringUnpickler(io.BytesIO(data)).load()
    except (
        binascii.Error,
        zlib.error,
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
    ) as error:
        raise ValueError(f"has a field {name!r} that cannot be decoded: {error}") from None
    if not isinstance(value, str):
        raise ValueError(f"has a field {name!r} that holds {type(value).__name__}, not text")
    return value


class _StringUnpickler(pickle.Unpickler):
    """Reads plain values: a pickle that names a class or a function is an error."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not text")


def _read_apps(item: Mapping[str, Any]) -> Iterable[ProgramTest]:
    cases = _read_object(item, "input_output")
    inputs, outputs, function = (cases.get(name) for name in ("inputs", "outputs", "fn_name"))
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("has a field 'input_output' without as many `outputs` as `inputs`")
    for given, expected in zip(inputs, outputs, strict=True):
        if function:
            arguments = tuple(given) if isinstance(given, list) else (given,)
            yield ProgramTest(
                kind="function", function=function, arguments=arguments, expected=expected
            )
        else:
            yield ProgramTest(
                kind="program", stdin=_join_lines(given), expected=_join_lines(expected)
            )


def _join_lines(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _read_assertions(item: Mapping[str, Any]) -> Iterable[ProgramTest]:
    """HumanEval has a function `check` to call, MBPP+ plain code."""
    code, entry = _read_text(item, "test"), item.get("entry_point")
    setup = _join_lines(item.get("test_imports") or "")
    call = f"\ncheck({entry})\n" if isinstance(entry, str) else ""
    yield ProgramTest(kind="assertions", code=f"{setup}\n{code}{call}")


def _read_test_list(item: Mapping[str, Any]) -> Iterable[ProgramTest]:
    setup = _join_lines(item.get("test_imports") or item.get("test_setup_code") or "")
    tests = item["test_list"]
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise ValueError("has a field 'test_list' that is not a list of assertions")
    return (_read_assertion(test, setup) for test in tests)


def _read_own(item: Mapping[str, Any]) -> Iterable[ProgramTest]:
    tests = item["tests"]
    if not isinstance(tests, list):
        raise ValueError("has a field 'tests' that is not a list")
    for place, test in enumerate(tests):
        if isinstance(test, str):
            yield _read_assertion(test, "")
        elif isinstance(test, Mapping) and {"function", "arguments", "output"} <= set(test):
            yield ProgramTest(
                kind="function",
                function=str(test["function"]),
                arguments=tuple(test["arguments"]),
                expected=test["output"],
            )
        elif isinstance(test, Mapping) and "output" in test:
            stdin, output = (_join_lines(test.get(name, "")) for name in ("input", "output"))
            yield ProgramTest(kind="program", stdin=stdin, expected=output)
        else:
            raise ValueError(
                f"has tests[{place}] {str(test)[:_SHOWN]!r}; a test is an assertion, or an object with `output` and "
                "`input`, or with `function`, `arguments` and `output`"
            )


def _read_assertion(code: str, setup: str) -> ProgramTest:
    """Return the test of one assertion. The value of `assert f(x) == 3` is compared outside of the
    process that runs the program, which never sees the 3.
    """
    try:
        (statement,) = ast.parse(code).body
        if isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare):
            (operation,), (right,) = statement.test.ops, statement.test.comparators
            if isinstance(operation, ast.Eq) and not setup:
                return ProgramTest(
                    kind="expression",
                    code=ast.unparse(statement.test.left),
                    expected=ast.literal_eval(right),
                )
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return ProgramTest(kind="assertions", code=f"{setup}\n{code}")


def _read_object(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = item.get(name) or {}
    value = _parse(value, name) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ValueError(f"has a field {name!r} that is not an object")
    return value


def _read_text(item: Mapping[str, Any], name: str) -> str:
    value = item[name]
    if not isinstance(value, str):
        raise ValueError(f"has a field {name!r} that is not text")
    return value


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(
            f"has a field {name!r} with {text[:_SHOWN]!r}, which is not JSON"
        ) from None


_READERS: Final = {
    "tests": _read_own,
    "public_test_cases": _read_livecodebench,
    "private_test_cases": _read_livecodebench,
    "input_output": _read_apps,
    "test": _read_assertions,
    "test_list": _read_test_list,
}
"""How tests are read, by the field that has them; the first field of a row that has a value counts."""
