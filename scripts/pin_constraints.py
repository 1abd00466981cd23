"""Write constraints.txt: an exact pin of everything that pyproject.toml declares, transitively, as
installed here.

LMDeploy needs an older torch and has separate pins, lmdeploy-constraints.txt.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Exact versions of everything that pyproject.toml declares, transitively. Written by `make pins`.
# torch is pinned without its local tag, so that pip takes the build that its index offers.
"""


def declared() -> Iterator[Requirement]:
    """Requirements of the project and of its extras, other than itself and LMDeploy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(extras[name] for name in extras if name != "lmdeploy")]
    for line in (line for group in groups for line in group):
        requirement = Requirement(line)
        if canonical(requirement.name) != project["name"]:
            yield requirement


def canonical(name: str) -> str:
    """Name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """Version of every distribution that is reached, by canonical name."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(declared())
    while waiting:
        requirement = waiting.pop()
        key = (canonical(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        installed = distribution(requirement.name)
        found[key[0]] = installed.version.partition("+")[0]
        waiting += _required(installed.requires or [], requirement.extras)
    return found


def _required(lines: list[str], extras: set[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield requirement


def main() -> int:
    """Entry point."""
    try:
        found = pins()
    except PackageNotFoundError as error:
        print(
            f"{error.name} is declared but not installed; run `pip install -e '.[dev]'` first",
            file=sys.stderr,
        )
        return 1
    lines = [f"{name}=={version}\n" for name, version in sorted(found.items())]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
