"""The command line as a user meets it: one message, the right exit status, never a traceback."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.api.cli.main import app

ROOT = Path(__file__).resolve().parents[3]


def _dirl(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "services.api.cli", *arguments]
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(cwd), "COLUMNS": "100"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["jobs", "list", "--data-dir", "nowhere"],
            "No platform is running on nowhere. Start one with `dirl up`",
        ),
        (
            ["jobs", "show", "job_1", "--api-url", "http://127.0.0.1:9"],
            "The API at http://127.0.0.1:9 does not answer",
        ),
        (
            ["jobs", "submit", "absent.toml", "--data-dir", "nowhere"],
            "Cannot read the job spec absent.toml",
        ),
        (["data", "check", "absent.jsonl"], "absent.jsonl"),
        (["models", "make", "--out", "."], "Cannot write a model to .: it already exists."),
    ],
)
def test_a_command_that_fails_says_why_in_one_message(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = _dirl(*arguments, cwd=tmp_path)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("dirl: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "launch"],
        ["jobs", "show"],
        ["data", "make", "arithmetic", "--out", "x", "--train", "no"],
    ],
)
def test_a_wrong_call_ends_with_status_2(arguments: list[str], tmp_path: Path) -> None:
    done = _dirl(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_every_command_describes_itself_and_offers_json() -> None:
    leaves = [
        ["up"],
        ["demo"],
        ["doctor"],
        ["generate"],
        *(
            ["jobs", name]
            for name in ("submit", "list", "show", "watch", "cancel", "pause", "resume")
        ),
        *(["jobs", name] for name in ("rerun", "diagnose", "logs")),
        *(["jobs", name] for name in ("fork", "rewind", "set", "checkpoint", "delete")),
        *(["jobs", name] for name in ("evals", "certificates", "trajectories")),
        ["jobs", "export-trajectories"],
        ["usage"],
        *(["files", name] for name in ("upload", "list", "delete")),
        *(["webhooks", name] for name in ("create", "list", "delete")),
        *(["keys", name] for name in ("create", "list", "revoke")),
        *(["models", name] for name in ("make", "convert", "list", "export")),
        ["data", "check"],
        ["data", "make", "arithmetic"],
    ]
    for leaf in leaves:
        done = CliRunner().invoke(app, [*leaf, "--help"])

        assert done.exit_code == 0, done.output
        assert "--json" in done.output


def test_data_is_made_and_then_found_good_for_everything(tmp_path: Path) -> None:
    made = _dirl(
        "data",
        "make",
        "arithmetic",
        "--out",
        "d",
        "--train",
        "20",
        "--test",
        "5",
        "--json",
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    files = json.loads(made.stdout)

    checked = _dirl("data", "check", files["train"], "--json", cwd=tmp_path)

    assert checked.returncode == 0, checked.stderr
    report = json.loads(checked.stdout)
    assert (report["rows"], report["usable_for"]) == (20, ["sft", "rl", "eval"])


def test_a_file_with_a_bad_row_names_it_and_fails(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n{"prompt": "2+2?"\n')

    done = _dirl("data", "check", "rows.jsonl", cwd=tmp_path)

    assert done.returncode == 1
    assert "row 2:" in done.stdout


def test_doctor_lists_what_it_found_and_how_to_get_the_rest(tmp_path: Path) -> None:
    done = _dirl("doctor", "--data-dir", "here", "--json", cwd=tmp_path)

    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert {"Python", "memory", "disk", "device", "LMDeploy", "Node.js", "port", "platform"} <= set(
        checks
    )
    assert checks["LMDeploy"]["status"] in ("ok", "note")
    assert checks["LMDeploy"]["detail"]
    assert checks["Python"]["status"] == "ok"
    assert checks["platform"]["advice"] == "start one with `dirl up`"
    assert checks["Node.js"]["status"] == "note"  # PATH is empty


def test_the_version_is_that_of_the_distribution() -> None:
    done = _dirl("--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"dirl {importlib.metadata.version('dirl-platform')}\n"
