"""Metric names are written once: in the registry of a job's metrics, and in the list of those that
processes export.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.job_metrics import PATTERNS, JobMetric, find_metric
from services.common.telemetry import exported_metrics as exported
from services.common.telemetry.exported_metrics import EXPORTED_METRICS

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "services" / "common" / "job_metrics.py"
EXPORTED = ROOT / "services" / "common" / "telemetry" / "exported_metrics.py"
FAMILIES = sorted({name.split("/")[0] for name in JobMetric})
FOLDERS = {
    "api": "services/api/http",
    "scheduler": "services/api/scheduler",
    "recorder": "services/api/recorder",
    "trainer": "services/trainer",
    "rollout": "services/rollout",
    "reward": "services/reward",
}
"""Process to the folder of its metrics."""
NAME = re.compile(rf"(?:{'|'.join(FAMILIES)})/[a-z0-9_]+(?:[/@][a-z0-9_]+)*")
IN_TEXT = re.compile(rf"`({NAME.pattern})`")
IN_SOURCE = re.compile(rf"[\"']({NAME.pattern})[\"']")


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (
            path for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts
        )


def strings_in(path: Path) -> Iterator[str]:
    """Literals of a module, those inside of f-strings included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_module_repeats_the_name_of_a_metric() -> None:
    begins = tuple(f"{family}/" for family in FAMILIES)
    found = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in python_files("services", "benchmarks", "scripts")
        if path != REGISTRY
        for text in strings_in(path)
        if NAME.fullmatch(text) or text in begins
    }

    assert "reward/" in begins
    assert found == set()


def test_no_module_names_an_exported_metric_beside_the_list() -> None:
    names = {metric.name for metric in EXPORTED_METRICS}
    found = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in python_files("services")
        if path != EXPORTED
        for text in strings_in(path)
        if text in names
    }

    assert len(names) == len(EXPORTED_METRICS) > 20
    assert found == set()


def test_every_listed_metric_is_exported_by_its_process_and_by_no_other() -> None:
    listed = {
        name: value.process for name, value in vars(exported).items() if value in EXPORTED_METRICS
    }
    uses = {
        (name, process)
        for process, folder in FOLDERS.items()
        for path in python_files(folder)
        for name in re.findall(r"\bexported\.([A-Z_]+)\b", path.read_text())
    }

    assert uses == set(listed.items())


@pytest.mark.parametrize(
    ("folder", "suffixes", "pattern"),
    [
        ("docs", (".md",), IN_TEXT),
        ("services/api/dashboard/src", (".ts", ".tsx"), IN_SOURCE),
        ("services/api/dashboard/e2e", (".mjs",), IN_SOURCE),
    ],
)
def test_documents_and_the_dashboard_name_registered_metrics_only(
    folder: str, suffixes: tuple[str, ...], pattern: re.Pattern[str]
) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    unknown = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in pattern.findall(path.read_text())
        if find_metric(name) is None and not any(name == each.template for each in PATTERNS)
    }

    assert files
    assert unknown == set()
