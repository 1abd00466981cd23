"""Every example is a job that the platform would take."""

from pathlib import Path

import pytest

from services.common.job_spec import load_spec

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(
    path for path in (ROOT / "examples").iterdir() if path.suffix in (".toml", ".json")
)
DEMO = ROOT / "services" / "api" / "adapters" / "arithmetic.toml"


@pytest.mark.parametrize("path", [*EXAMPLES, DEMO], ids=lambda path: path.name)
def test_the_spec_is_valid(path: Path) -> None:
    assert load_spec(path).method.stages


def test_there_is_an_example_of_every_method() -> None:
    assert {load_spec(path).method.type for path in EXAMPLES} == {"sft", "rl", "eval", "pipeline"}
