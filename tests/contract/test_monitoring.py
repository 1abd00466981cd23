"""Alerts and the Grafana dashboard ask for series that our processes have, in queries that
Prometheus understands.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
ALERTS: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0][
    "rules"
]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
DEFINITION = re.compile(
    r'(Counter|CounterMetricFamily|Histogram|Gauge|GaugeMetricFamily|)\(\s*"(dirl_\w+)"'
)
SERIES = re.compile(r"\bdirl_\w+")
JOB_METRIC = re.compile(r'dirl_trainer_metric\{name="([^"]+)"')
GROUPS = ("Progress", "Stability", "Performance", "Health")
MAX_CHARTS = 12


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[str]:
    """Every query, with the dashboard's variable as Grafana would put it in."""
    yield from (alert["expr"] for alert in ALERTS)
    for panel in panels():
        yield from (target["expr"].replace("$job", ".*") for target in panel["targets"])


def exported() -> set[str]:
    """Names of the series that the services' sources define."""
    names = set()
    for path in (ROOT / "services").rglob("*.py"):
        for kind, name in (
            DEFINITION.findall(path.read_text()) if "node_modules" not in path.parts else ()
        ):
            suffixes = (
                ("_bucket", "_sum", "_count")
                if kind == "Histogram"
                else ("_total",)
                if "Counter" in kind
                else ("",)
            )
            names |= {name + suffix for suffix in suffixes}
    return names


def test_prometheus_understands_every_query() -> None:
    found = list(queries())

    assert len(found) > 25
    for query in found:
        promql_parser.parse(query)
    with pytest.raises(ValueError, match="unexpected"):
        promql_parser.parse("rate(dirl_jobs[5m)")


def test_every_series_that_is_asked_for_is_one_that_a_process_has() -> None:
    asked = {name for query in queries() for name in SERIES.findall(query)}

    assert len(exported()) > 20
    assert asked - exported() == set()


def test_every_metric_of_a_job_that_is_asked_for_is_one_that_learners_report() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "services" / "trainer").rglob("*.py"))
    timed = {f"time/{name}_s" for name in re.findall(r'timed\("(\w+)"\)', sources)}
    asked = {name for query in queries() for name in JOB_METRIC.findall(query)}

    assert asked
    assert {name for name in asked - timed if f'"{name}"' not in sources} == set()


def test_every_alert_says_how_bad_it_is_and_the_operators_page_what_to_do() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"].keys() == {"summary", "description"}
        assert f"| `{alert['alert']}` |" in operations


def test_the_dashboard_has_four_groups_and_fits_a_screen() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]

    assert tuple(rows) == GROUPS
    assert len(panels()) <= MAX_CHARTS
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)
def test_alerts_fire_when_they_should() -> None:
    command = ["promtool", "test", "rules", str(MONITORING / "alerts_test.yml")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
