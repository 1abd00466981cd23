"""Reading of large files: rows per second and memory of the platform's reader, beside `datasets`.

`pip install datasets`, then `python benchmarks/data_reading.py [--gigabytes 1]`. Every reader runs in a process of its
own; each prints a line of JSON, the last line has the ratios. The platform parses, recognises the layout of, checks and
hashes every row; `datasets` only parses it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from services.common.data.records import iter_records
from services.common.data.rows import check_file

_GB: Final = 10**9
_STEP: Final = (
    "Each pen has 4 hens, so we multiply: $3\\cdot 4 = 12$, and add what was there before. "
)


def write_rows(path: Path, num_bytes: int) -> int:
    """Write rows as NuminaMath-CoT has them, and count them."""
    written = number = 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            problem = (
                f"Farm {number} has {number % 97} pens with 4 hens each. How many hens are there?"
            )
            solution = _STEP * (5 + number % 20) + f"The answer is $\\boxed{{{number % 97 * 4}}}$."
            turns = [
                {"role": "user", "content": problem},
                {"role": "assistant", "content": solution},
            ]
            row = {"source": "farm", "problem": problem, "solution": solution, "messages": turns}
            written += file.write(json.dumps(row) + "\n")
            number += 1
    return number


def count_with_platform(path: Path) -> int:
    """Validate every row, as an upload or a submission does."""
    report = check_file(path)
    assert report.num_problems == 0, report.problems
    return report.rows


def parse_with_platform(path: Path) -> int:
    """Parse every row without looking into it, which is what `datasets` does."""
    return sum(isinstance(record.content, dict) for record in iter_records(path))


def count_with_streaming_datasets(path: Path) -> int:
    """Iterate over the rows without a cache."""
    datasets = import_module("datasets")
    rows = datasets.load_dataset("json", data_files=str(path), split="train", streaming=True)
    return sum(1 for _ in rows)


def count_with_datasets(path: Path) -> int:
    """Convert the file to Arrow in a cache, and iterate over the rows."""
    datasets = import_module("datasets")
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
        return sum(1 for _ in rows)


READERS: Final[dict[str, Callable[[Path], int]]] = {
    "dirl": count_with_platform,
    "dirl, parsed only": parse_with_platform,
    "datasets, streaming": count_with_streaming_datasets,
    "datasets": count_with_datasets,
}


def measure(reader: str, path: Path) -> None:
    """Print what one reader takes."""
    started = time.perf_counter()
    rows = READERS[reader](path)
    seconds = time.perf_counter() - started
    result = {
        "reader": reader,
        "bytes": path.stat().st_size,
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_s": round(rows / seconds),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    """Measure all readers on one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--directory", type=Path, help="where the file is written")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        measure(options.reader, options.directory)
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        path = Path(directory) / "rows.jsonl"
        rows = write_rows(path, int(options.gigabytes * _GB))
        results = {}
        for reader in READERS:
            command = [sys.executable, __file__, "--reader", reader, "--directory", str(path)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[reader] = json.loads(done.stdout.splitlines()[-1])
            assert results[reader]["rows"] == rows
            print(json.dumps(results[reader]), flush=True)
    ratios = {
        f"{own} against {other}": round(
            results[own]["rows_per_s"] / results[other]["rows_per_s"], 2
        )
        for own in ("dirl", "dirl, parsed only")
        for other in ("datasets, streaming", "datasets")
    }
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
