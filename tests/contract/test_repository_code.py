"""Promises about the source files themselves."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = [path for path in (ROOT / "services").rglob("*.py") if "node_modules" not in path.parts]
# Home directories and checkouts; placeholders such as /models/my-model are no paths of a machine.
DEVELOPER_PATH = re.compile(r"(?<![\w.])/(?:home|Users|work|workspace|mnt)/[A-Za-z0-9_.-]+")


@pytest.fixture(scope="module")
def repository_files() -> list[Path]:
    """Files that are, or will be, in the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_packages_have_an_init_because_a_namespace_package_would_merge_with_others() -> None:
    # Migrations are scripts that Alembic loads by path.
    packages = {path.parent for path in MODULES if "migrations" not in path.parts}

    assert [package for package in packages if not (package / "__init__.py").exists()] == []


def test_no_file_names_a_path_of_a_developers_machine(repository_files: list[Path]) -> None:
    found = {}
    for path in repository_files:
        try:
            match = DEVELOPER_PATH.search(path.read_text())
        except UnicodeDecodeError:
            continue
        if match:
            found[path] = match.group()

    assert found == {}


@pytest.mark.parametrize("parts", [("work", "main"), ("home", "ann"), ("Users", "ben", "x")])
def test_paths_of_developers_are_recognised(parts: tuple[str, ...]) -> None:
    assert DEVELOPER_PATH.search(f"(see /{'/'.join(parts)})")


def test_no_compiled_or_local_file_is_in_the_repository(repository_files: list[Path]) -> None:
    unwanted = re.compile(r"(^|/)(__pycache__|\.venv|node_modules)/|\.(pyc|so|log)$")

    assert [path for path in repository_files if unwanted.search(str(path.relative_to(ROOT)))] == []


def test_every_broad_except_that_neither_raises_nor_logs_gives_its_reason() -> None:
    # BLE001 rejects a broad except that neither re-raises nor logs the traceback, unless it is excused.
    excused = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in MODULES
        for line in path.read_text().splitlines()
        if "noqa: BLE001" in line
    ]

    assert excused
    assert [line for line in excused if not re.search(r"noqa: BLE001 - \w", line)] == []


def test_actions_are_pinned_to_commits_and_workflows_have_least_permissions_and_timeouts() -> None:
    workflows = {path: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    uses = [line for text in workflows.values() for line in re.findall(r"uses: (.*)", text)]

    assert len(workflows) == 5
    assert [use for use in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", use)] == []
    for path, text in workflows.items():
        assert "\npermissions:\n  contents: read\n" in text, path
        assert "\nconcurrency:\n" in text, path
        assert text.count("runs-on:") == text.count("timeout-minutes:"), path
