"""What is meant for a GPU runs through without one, so that its first run there is not its first
run.
"""

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {
    "smoke_eager", "throughput_torch", "throughput_lmdeploy", "update_torch", "update_lmdeploy", "step",
}  # fmt: skip


def test_the_list_for_a_gpu_runs_dry_and_ends_in_a_table_and_a_file(tmp_path: Path) -> None:
    report = tmp_path / "report.json"

    done = subprocess.run(
        [sys.executable, "benchmarks/gpu_rollout.py", "--dry-run", "--out", str(report)],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    sections = json.loads(report.read_text())["sections"]
    assert set(sections) == SECTIONS
    assert not any("error" in section for section in sections.values())
    assert sections["smoke_eager"]["distinct_of_32"] == 32
    assert sections["smoke_eager"]["gap_after_update"]["max"] < 1e-5
    assert sections["update_torch"]["bytes_given_back"] > 0
    assert set(sections["step"]["seconds"]) == {
        "rollout",
        "reward",
        "sleep",
        "train",
        "wake_and_update",
    }
    assert any(line.split()[:2] == ["step", "seconds.train"] for line in done.stdout.splitlines())


def test_a_wheel_is_stripped_of_its_binaries_and_stays_whole(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "lmdeploy_wheels", ROOT / "scripts/lmdeploy_wheels.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    kept = {"lmdeploy/version.py": "x", "lmdeploy-0.18.0.dist-info/METADATA": "y"}
    with zipfile.ZipFile(tmp_path / "lmdeploy-0.18.0.whl", "w") as wheel:
        for name, content in {**kept, "lmdeploy/turbomind/_turbomind.so": "binary"}.items():
            wheel.writestr(name, content)
        wheel.writestr(
            "lmdeploy-0.18.0.dist-info/RECORD",
            "lmdeploy/version.py,,\nlmdeploy/turbomind/_turbomind.so,,\n",
        )

    script._strip(tmp_path / "lmdeploy-0.18.0.whl", tmp_path / "out.whl")

    with zipfile.ZipFile(tmp_path / "out.whl") as wheel:
        assert set(wheel.namelist()) == {*kept, "lmdeploy-0.18.0.dist-info/RECORD"}
        assert wheel.read("lmdeploy-0.18.0.dist-info/RECORD") == b"lmdeploy/version.py,,\n"
