"""Promises about packages, pins and entry points that the repository makes."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import services

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_services_is_the_package_of_this_repository() -> None:
    assert Path(services.__file__).resolve().parent == ROOT / "services"


@pytest.mark.parametrize(
    "module", ["services.api.http.app", "services.api.cli.main", "services.reward.server"]
)
def test_control_plane_and_verifier_start_without_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit(' '.join({{'torch', 'transformers'}} & set(sys.modules)) or 0)"

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_every_declared_requirement_is_pinned_exactly() -> None:
    files = [ROOT / name for name in ("constraints.txt", "lmdeploy-constraints.txt")]
    lines = [
        line for path in files for line in path.read_text().splitlines() if not line.startswith("#")
    ]
    pinned = {_canonical(line.split("==")[0]) for line in lines}
    declared = _declared()

    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    assert declared - pinned == {PROJECT["name"]}


def test_torch_is_pinned_without_a_local_version_so_that_any_build_of_it_fits() -> None:
    assert re.search(r"^torch==[0-9.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_make_without_a_target_lists_every_target_with_a_description() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert phony is not None
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(listed) == set(phony.group(1).split())


def test_the_licence_of_the_project_file_is_the_one_in_the_repository() -> None:
    text = (ROOT / "LICENSE").read_text()

    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_that_is_imported_is_declared() -> None:
    declared = _declared()
    known = packages_distributions()
    undeclared = {
        f"{name} in {path.relative_to(ROOT)}"
        for folder in ("services", "tests", "scripts", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for name in _imported(path)
        - sys.stdlib_module_names
        - {"compression"}  # of Python 3.14
        - {"services", "tests", "benchmarks", "scripts"}
        if not (path.parent / f"{name}.py").is_file()  # a script's neighbour
        and not declared & {_canonical(distribution) for distribution in known.get(name, (name,))}
    }

    assert undeclared == set()


def _imported(path: Path) -> set[str]:
    """Top-level names of every absolute import."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def _declared() -> set[str]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {_canonical(re.split(r"[\[<>=~! ]", line)[0]) for group in groups for line in group}
