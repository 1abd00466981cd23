"""Log lines of a process."""

import json
import subprocess
import sys
from typing import Any

from tests.support.processes import ROOT

PROGRAM = """
import logging, sys
from services.common.telemetry.logs import configure_logging, get_logger
log = get_logger()
configure_logging("rollout", sys.argv[1], sys.argv[2])
log.debug("too fine to be seen")
log.info("weights loaded", weight_version=7, seconds=0.5)
logging.getLogger("some.library").warning("plain %s", "text")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("step failed")
"""


def lines(level: str, format: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, level, format],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == ""
    return ended.stderr.splitlines()


def test_every_line_is_json_with_service_level_time_and_the_facts() -> None:
    first, library, failure = (json.loads(line) for line in lines("info", "json"))

    assert _without_time(first) == {
        "service": "rollout",
        "level": "info",
        "event": "weights loaded",
        "weight_version": 7,
        "seconds": 0.5,
    }
    assert _without_time(library) == {
        "service": "rollout",
        "level": "warning",
        "event": "plain text",
    }
    assert "ZeroDivisionError" in failure["exception"]
    assert failure["event"] == "step failed"


def test_lines_below_the_level_are_left_out() -> None:
    assert [json.loads(line)["event"] for line in lines("error", "json")] == ["step failed"]


def test_console_lines_are_for_people() -> None:
    first = lines("info", "console")[0]

    assert "weights loaded" in first
    assert "weight_version=7" in first
    assert not first.startswith("{")


def _without_time(line: dict[str, Any]) -> dict[str, Any]:
    assert line.pop("timestamp").endswith("Z")
    return line
