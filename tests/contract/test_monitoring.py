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

from services.common.job_metrics import find_metric
from services.common.telemetry.exported_metrics import EXPORTED_METRICS

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
ALERTS: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0][
    "rules"
]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
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
    """Names of the series that the processes export."""
    return {series for metric in EXPORTED_METRICS for series in metric.series}


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
    asked = {name for query in queries() for name in JOB_METRIC.findall(query)}

    assert asked
    assert {name for name in asked if find_metric(name) is None} == set()


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
