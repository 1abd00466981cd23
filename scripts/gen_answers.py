"""Write services/api/answers.py: the answers of the REST API that its Python client returns, as
TypedDicts.

They are made of the API's own OpenAPI document, so that the type checker sees what the server says.
`--check` only says whether the file is up to date.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dashboard_inputs import ROOT, openapi

TARGET: Final = ROOT / "services" / "api" / "answers.py"
WANTED: Final = (
    "AttemptView",
    "CertificateView",
    "CheckpointView",
    "DeletedCheckpoint",
    "DeletedJob",
    "DiagnosisView",
    "EvaluationView",
    "EventView",
    "ExportView",
    "FileView",
    "JobForecast",
    "JobView",
    "KeyView",
    "LogLineView",
    "ModelView",
    "NewKeyView",
    "NewWebhookView",
    "RescoreReport",
    "UsageView",
)
HEADER: Final = '''"""Answers of the REST API, as its client returns them. Written by scripts/gen_answers.py."""

from typing import Any, Literal, TypedDict

'''
_PLAIN: Final = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
}
Schema = dict[str, Any]


def type_of(schema: Schema) -> str:
    """A schema as a Python annotation."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return f"Literal[{schema['const']!r}]"
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(type_of(choice) for choice in schema["anyOf"]))
    kind = schema.get("type")
    if kind == "array":
        return f"list[{type_of(schema.get('items', {}))}]"
    if kind == "object":
        values = schema.get("additionalProperties", True)
        return f"dict[str, {type_of(values) if isinstance(values, dict) else 'Any'}]"
    return _PLAIN.get(str(kind), "Any")


def definitions(schemas: dict[str, Schema]) -> dict[str, str]:
    """Source of every wanted type and of those that they are made of, the parts first."""
    found: dict[str, str] = {}

    def define(name: str) -> None:
        if name not in found:
            for part in _references(schemas[name]):
                define(part)
            found[name] = _definition(name, schemas[name])

    for name in WANTED:
        define(name)
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _references(item)
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)


def _definition(name: str, schema: Schema) -> str:
    if "properties" not in schema:
        return f"{name} = {type_of(schema)}\n"
    about = schema.get("description", "").partition("\n")[0]
    # Fields with defaults are not "required" in the document; an answer has them all the same.
    fields = (f"    {field}: {type_of(value)}\n" for field, value in schema["properties"].items())
    return f'class {name}(TypedDict):\n    """{about}"""\n\n' + "".join(fields)


def _formatted(source: str) -> str:
    ruff = Path(sys.executable).with_name("ruff")
    return subprocess.run(
        [ruff, "format", "-"], input=source, capture_output=True, text=True, check=True
    ).stdout


def main() -> None:
    """Write the file, or check it."""
    made = definitions(openapi()["components"]["schemas"])
    source = _formatted(HEADER + "\n\n".join(made.values()))
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(source)
    elif TARGET.read_text() != source:
        sys.exit(f"{TARGET.relative_to(ROOT)} is out of date: run scripts/gen_answers.py")


if __name__ == "__main__":
    main()
