"""What a process remembers of its log."""

import json
import subprocess
import sys

import pytest

from tests.support.processes import ROOT

PROGRAM = """
import json, logging, sys
from services.common.telemetry.last_error import last_error
from services.common.telemetry.logs import configure_logging, get_logger
log = get_logger()
configure_logging("recorder", "error", "json")
def fail():
    try:
        {}["job_1"]
    except KeyError:
        log.exception("event not understood", seq=3)
exec(sys.argv[1])
error = last_error()
print(json.dumps(None if error is None else [error.message, error.at.tzname()]))
"""


def remembered(statement: str) -> object:
    command = [sys.executable, "-c", PROGRAM, statement]
    return json.loads(
        subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        ).stdout
    )


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            'log.error("first"); log.error("events not read", reason="refused")',
            "events not read: refused",
        ),
        ("fail()", "event not understood: KeyError: 'job_1'"),
        (
            'log.error("attempt failed", exc_info=ValueError("bad"))',
            "attempt failed: ValueError: bad",
        ),
        ('logging.getLogger("celery").error("%s lost", "broker")', "broker lost"),
        ('log.error("x", reason="redis://:secret@host/0")', "x: redis://…@host/0"),
    ],
)
def test_the_newest_error_is_remembered_with_its_reason_and_without_secrets(
    statement: str, message: str
) -> None:
    assert remembered(statement) == [message, "UTC"]


def test_a_warning_is_no_error() -> None:
    assert remembered('log.warning("task put off")') is None
