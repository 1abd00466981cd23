"""Mutation testing: put small faults into the code, one at a time, and count those that no test notices.

mutmut changes one operator, constant, argument or condition of a function and runs the unit tests
that call this function. A mutant whose tests still pass has survived: either a test is missing, or
the change makes no difference. `[tool.mutmut]` of pyproject.toml names the modules and the tests.

    scripts/mutants.py                                  # every module; an hour and a half on one core
    scripts/mutants.py services/reward/pairing.py       # one module
    scripts/mutants.py --sample 200 'services/trainer/training/*.py'
    scripts/mutants.py --survivors services/api/domain/rate.py

Not counted are mutants that change only the text of a message: no test should repeat whole sentences.
mutmut makes no mutants of module constants and of decorated functions.
"""

import argparse
import fnmatch
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mutmut.__main__ import create_mutants
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import (
    copy_also_copy_files,
    copy_src_dir,
    setup_source_paths,
    walk_source_files,
)

ROOT = Path(__file__).resolve().parent.parent
SURVIVED = ("survived", "no tests")
STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
SENTENCE = re.compile(r"[\"'][^\"']* [^\"']*[\"']")


@dataclass
class Score:
    """Mutants of one module by status; those of a message's text under `text`."""

    counts: Counter[str] = field(default_factory=Counter)

    @property
    def line(self) -> str:
        """A row of the table: killed, survived, not counted, score."""
        killed = sum(n for status, n in self.counts.items() if status in ("killed", "timeout"))
        survived = sum(self.counts[status] for status in SURVIVED)
        share = f"{killed / (killed + survived):.1%}" if killed + survived else "-"
        return f"{killed} | {survived} | {self.counts['text']} | {share}"


def main() -> None:
    """Run the mutants and print a table, or print the survivors of an earlier run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", default=["*"], help="Paths or patterns of modules.")
    parser.add_argument("--sample", type=int, help="Run this many mutants, drawn at random.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the sample.")
    parser.add_argument(
        "--survivors", action="store_true", help="Print the survivors of the last run; run none."
    )
    arguments = parser.parse_args()
    os.chdir(ROOT)
    paths = [path for path in mutated_files() if is_selected(path, arguments.modules)]
    if not arguments.survivors:
        run_mutants(paths, arguments.sample, arguments.seed)
    print_report(paths, with_survivors=arguments.survivors)


def mutated_files() -> list[Path]:
    """Return the modules that pyproject.toml names."""
    return sorted(path for path in walk_source_files() if config().should_mutate(path))


def is_selected(path: Path, patterns: Sequence[str]) -> bool:
    """Whether a module matches one of the patterns."""
    return any(fnmatch.fnmatch(str(path), pattern) for pattern in patterns)


def run_mutants(paths: Sequence[Path], sample: int | None, seed: int) -> None:
    """Run the mutants of the modules, one process at a time."""
    Path("mutants").mkdir(exist_ok=True)
    set_mutant_under_test("mutant_generation")
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    create_mutants(1)
    names = sorted(name for path in paths for name in read_statuses(path))
    if sample is not None and sample < len(names):
        names = random.Random(seed).sample(names, sample)
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", "1", *names]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    if done.returncode:
        sys.exit("mutmut failed; the last lines above say why.")


def read_statuses(path: Path) -> dict[str, str]:
    """Return the status of each mutant of a module; `not checked` for one that has not been run."""
    data = SourceFileMutationData(path=path)
    data.load()
    return {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}


def print_report(paths: Sequence[Path], *, with_survivors: bool) -> None:
    """Print a table in Markdown, or every survivor with its change."""
    total = Score()
    print("| module | killed | survived | text | score |\n| --- | ---: | ---: | ---: | ---: |")
    for path in paths:
        score = Score()
        for name, status in read_statuses(path).items():
            changed = list(changed_lines(name, path)) if status in SURVIVED else []
            is_text = status in SURVIVED and is_text_change(changed)
            score.counts["text" if is_text else status] += 1
            if with_survivors and status in SURVIVED and not is_text:
                print(f"{name} ({status})", *changed, sep="\n")
        if score.counts.total() > score.counts["not checked"]:
            print(f"| `{path}` | {score.line} |")
        total.counts += score.counts
    print(f"| all | {total.line} |")


def changed_lines(name: str, path: Path) -> Iterator[str]:
    """Yield the lines that a mutant removes and adds."""
    for line in get_diff_for_mutant(name, path=path).splitlines():
        if line.startswith(("-", "+")) and not line.startswith(("---", "+++")):
            yield line


def is_text_change(changed: Sequence[str]) -> bool:
    """Whether only the words of a sentence or a hint differ; a single word may be a code or a key."""
    removed = [line[1:] for line in changed if line.startswith("-")]
    added = [line[1:] for line in changed if line.startswith("+")]
    if without_hint(removed) == without_hint(added):
        return True
    is_same_code = [STRING.sub('""', line) for line in removed] == [
        STRING.sub('""', line) for line in added
    ]
    return is_same_code and any(SENTENCE.search(line) for line in removed)


def without_hint(lines: Sequence[str]) -> str:
    """Return code without the hint of an error, blanks and commas."""
    return re.sub(r"hint=(None|(\"[^\"]*\"\s*)+)|[\s,]", "", "".join(lines))


if __name__ == "__main__":
    main()
