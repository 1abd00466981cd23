"""The dashboard in a browser against the whole platform: submit, watch, pause, resume, cancel,
scrub a trajectory.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.http.pages import DASHBOARD
from tests.support.embedded import local_platform, tiny_spec

SCRIPTS = DASHBOARD.parent / "e2e"
MASK = "▒"


def _missing() -> str | None:
    if shutil.which("node") is None:
        return "Node is not installed"
    if not (DASHBOARD / "index.html").exists() or not (DASHBOARD.parent / "node_modules").exists():
        return "the dashboard is not built: make dashboard"
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return "Chromium is not installed: apt-get install chromium"
    return None


pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        _missing() is not None, reason=f"browser tests need a dependency: {_missing()}"
    ),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Observations of one visit, shared by all tests."""
    with local_platform() as platform:
        spec = tiny_spec(platform.data_dir / "input", rl_steps=8)
        spec["sft"] |= {"epochs": 8, "max_steps": 30}
        spec["checkpoint"]["interval_steps"] = 10
        file: Path = tmp_path_factory.mktemp("visit") / "spec.json"
        file.write_text(json.dumps(spec))
        command = ["node", str(SCRIPTS / "visit.mjs"), platform.api_url, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
        assert done.stdout, done.stderr
        report = json.loads(done.stdout)
        assert "failure" not in report, report["failure"]
        yield {**report, "spec": spec}


def test_an_empty_platform_offers_the_demo(seen: dict[str, Any]) -> None:
    assert seen["offersDemo"]


def test_problems_of_a_job_are_shown_in_the_form(seen: dict[str, Any]) -> None:
    assert seen["refusal"].startswith("The job spec cannot be used: 1 problem")
    assert "model String should have at least 1 character" in seen["refusal"]


def test_the_form_shows_the_spec_and_the_equivalent_command(seen: dict[str, Any]) -> None:
    assert seen["formModel"] == seen["spec"]["model"]
    assert seen["curl"].startswith("curl -s http://127.0.0.1:")
    assert '"suffix": "from-the-form"' in seen["curl"]


def test_a_curve_grows_while_the_page_is_open(seen: dict[str, Any]) -> None:
    first, later = seen["curve"]
    assert first.startswith("Loss: training")
    assert later != first
    assert 0 < seen["charts"] <= 12


def test_a_job_is_paused_resumed_and_another_cancelled(seen: dict[str, Any]) -> None:
    assert (seen["paused"], seen["resumed"], seen["cancelled"]) == (True, True, True)
    assert seen["promptAccounting"].startswith("Prompt accounting verified")


def test_scrubbing_shows_the_input_of_each_step(seen: dict[str, Any]) -> None:
    whole, beginning, after = seen["whole"], seen["beginning"], seen["afterOneStep"]
    assert MASK not in whole
    assert MASK in beginning
    assert set(beginning) <= {MASK, "", " "}
    committed = [
        place
        for place, text in enumerate(after)
        if text == whole[place] and text != beginning[place]
    ]
    assert committed
    assert seen["again"] == whole


def test_no_page_breaks_a_serious_rule_of_accessibility_in_either_theme(
    seen: dict[str, Any],
) -> None:
    assert seen["violations"] == []


def test_no_page_is_wider_than_a_phone(seen: dict[str, Any]) -> None:
    assert seen["wide"] == []


def test_the_browser_logs_no_error(seen: dict[str, Any]) -> None:
    assert seen["complaints"] == []
