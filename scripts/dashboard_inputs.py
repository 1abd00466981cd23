"""Write the inputs of the dashboard's build as JSON: the OpenAPI document of the API, the metrics with
their charts, and the example specs.
"""

import json
import os
from pathlib import Path
from typing import Any

from services.api.http.app import create_app
from services.api.http.resources import open_resources
from services.api.settings import ApiSettings
from services.common.job_metrics import CHART_GROUPS, CHARTS, PATTERNS, JobMetric
from services.common.job_spec import read_spec_file
from services.common.settings import read_settings

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "services" / "api" / "dashboard" / "src" / "generated"


def openapi() -> dict[str, Any]:
    """The document as the API answers it; no server is asked."""
    os.environ.setdefault("DIRL_DATABASE_URL", "postgresql+psycopg://unused@127.0.0.1/unused")
    os.environ.setdefault("DIRL_REDIS_URL", "redis://127.0.0.1:1/0")
    os.environ.setdefault("DIRL_DATA_DIR", str(TARGET))
    with open_resources(read_settings(ApiSettings)) as resources:
        return create_app(resources).openapi()


def examples() -> list[dict[str, Any]]:
    """Every example: {name, about: its first comment, spec}."""
    paths = sorted(
        path for path in (ROOT / "examples").iterdir() if path.suffix in (".toml", ".json")
    )
    return [
        {"name": path.stem, "about": _about(path), "spec": read_spec_file(path)} for path in paths
    ]


def metrics() -> dict[str, Any]:
    """Return the registry of metrics and the default charts, as src/charts/metric-chart.tsx reads them."""
    return {
        "metrics": {
            metric: {"unit": metric.unit, "meaning": metric.meaning} for metric in JobMetric
        },
        "patterns": [
            {"regex": pattern.regex.pattern, "unit": pattern.unit, "meaning": pattern.meaning}
            for pattern in PATTERNS
        ],
        "groups": CHART_GROUPS,
        "charts": [
            {
                "id": chart.id,
                "group": chart.group,
                "title": chart.title,
                "about": chart.about,
                "unit": chart.unit,
                "lines": [
                    {"metric": metric, "label": label} for metric, label in chart.lines.items()
                ],
                "log": chart.is_logarithmic,
                "stages": sorted(chart.stages),
            }
            for chart in CHARTS
        ],
    }


def _about(path: Path) -> str:
    lines = [
        line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# ")
    ]
    return lines[0] if lines and path.suffix == ".toml" else ""


def write(name: str, value: Any) -> None:
    """Write a file unless it says the same already, so that what was built from it stays current."""
    text = json.dumps(value, indent=1) + "\n"
    path = TARGET / name
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    write("openapi.json", openapi())
    write("examples.json", examples())
    write("metrics.json", metrics())
