"""Job specs in files: TOML or JSON."""

import json
import tomllib
from pathlib import Path
from typing import Any

from services.common.errors import Problem, ProblemsError
from services.common.job_spec import JobSpec, parse_spec


def load_spec(path: Path) -> JobSpec:
    """Read a .toml or .json file; raises ProblemsError."""
    return parse_spec(read_spec_file(path))


def read_spec_file(path: Path) -> dict[str, Any]:
    """Read a .toml or .json file; raises ProblemsError for unreadable or malformed files."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ProblemsError(
            "spec_invalid", f"Cannot read the job spec {path}", [Problem(str(path), str(error))]
        ) from None
    if not isinstance(data, dict):
        raise ProblemsError(
            "spec_invalid",
            f"Cannot read the job spec {path}",
            [Problem("spec", "must be an object")],
        )
    return data
